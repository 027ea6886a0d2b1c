#include "core/scheme/registry.h"

#include <algorithm>
#include <cmath>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "core/scheme/spec_keys.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace quantd {
namespace {

using ::testing::HasSubstr;

std::string NameOfCase(const ::testing::TestParamInfo<const Scheme*>& info) {
  return std::string(info.param->info.name);
}

TEST(RegistryTest, FindsEachSchemeByItsName) {
  std::set<std::string> names;
  for (const Scheme* scheme : AllSchemes()) {
    const absl::StatusOr<const Scheme*> found = FindScheme(scheme->info.name);
    ASSERT_TRUE(found.ok()) << found.status();
    EXPECT_EQ(*found, scheme);
    EXPECT_TRUE(names.insert(std::string(scheme->info.name)).second) << scheme->info.name;
  }
}

TEST(RegistryTest, ListsTheSchemesThatThereAre) {
  const absl::Status status = FindScheme("int9").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(status.message()), HasSubstr("\"int9\""));
  for (const Scheme* scheme : AllSchemes()) {
    EXPECT_THAT(std::string(status.message()), HasSubstr(std::string(scheme->info.name)));
  }
}

class SchemeRowTest : public ::testing::TestWithParam<const Scheme*> {};

TEST_P(SchemeRowTest, SaysWhatItIs) {
  const SchemeInfo& info = GetParam()->info;
  for (const char c : info.name) {
    EXPECT_TRUE((c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '_') << info.name;
  }
  EXPECT_FALSE(info.summary.empty());
  EXPECT_FALSE(info.source.empty());
  EXPECT_GT(info.bits_per_code, 0);
  EXPECT_FALSE(info.nonfinites.empty());
  EXPECT_EQ(info.nonfinites.front(), NonFinite::kReject);  // nothing silent by default
}

TEST_P(SchemeRowTest, ACompletedSpecIsComplete) {
  const SchemeInfo& info = GetParam()->info;
  const absl::StatusOr<QuantSpec> once =
      CompleteSpec({.scheme = std::string(info.name)}, *GetParam());
  ASSERT_TRUE(once.ok()) << once.status();
  const absl::StatusOr<QuantSpec> twice = CompleteSpec(*once, *GetParam());
  ASSERT_TRUE(twice.ok()) << twice.status();
  EXPECT_EQ(*once, *twice);
  const absl::StatusOr<QuantSpec> read = ParseSpec(FormatSpec(*once));
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(*read, *once);
}

TEST_P(SchemeRowTest, TakesWhatItListsAndRefusesTheRest) {
  const SchemeInfo& info = GetParam()->info;
  for (const SpecKey& key : SpecKeys()) {
    if (key.names.empty() || key.name == "per") continue;
    const std::vector<std::string> allowed = key.choices(info);
    for (const absl::string_view value : key.names) {
      const std::string setting = absl::StrCat(key.name, "=", value);
      const absl::StatusOr<QuantSpec> spec = ParseSpec(absl::StrCat(info.name, ":", setting));
      ASSERT_TRUE(spec.ok()) << spec.status();
      const absl::Status status = CompleteSpec(*spec, *GetParam()).status();
      if (std::find(allowed.begin(), allowed.end(), value) != allowed.end()) {
        EXPECT_TRUE(status.ok()) << status;
        continue;
      }
      EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << setting;
      EXPECT_THAT(std::string(status.message()), HasSubstr(std::string(info.name)));
      EXPECT_THAT(std::string(status.message()), HasSubstr(setting));
      EXPECT_THAT(std::string(status.message()), HasSubstr(absl::StrJoin(allowed, ", ")));
    }
  }
}

TEST_P(SchemeRowTest, TakesEachOfItsDialects) {
  for (const Dialect& dialect : GetParam()->info.dialects) {
    const QuantSpec spec = {.scheme = std::string(GetParam()->info.name),
                            .dialect = std::string(dialect.name)};
    const absl::StatusOr<QuantSpec> completed = CompleteSpec(spec, *GetParam());
    EXPECT_TRUE(completed.ok()) << dialect.name << ": " << completed.status();
    for (const absl::string_view name : dialect.fixed) {
      const SpecKey* key = FindSpecKey(name);
      ASSERT_NE(key, nullptr) << name;
      EXPECT_TRUE(key->format(dialect.defaults).has_value()) << dialect.name << " " << name;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Schemes, SchemeRowTest, ::testing::ValuesIn(AllSchemes()), NameOfCase);

absl::Status Refused(absl::string_view text) {
  const absl::StatusOr<QuantSpec> spec = ParseSpec(text);
  if (!spec.ok()) return spec.status();
  return CompleteSpec(*spec, **FindScheme(spec->scheme)).status();
}

TEST(CompleteSpecTest, RefusesWhatDoesNotGoTogether) {
  const std::pair<const char*, const char*> refusals[] = {
      {"int8:scale=1,range=minmax", "scale= and range= exclude each other"},
      {"int8:scale=1,range=0..1", "scale= and range= exclude each other"},
      {"int8:zero=1", "zero= needs scale="},
      {"int8:scale=1,mode=full", "mode= does not apply beside scale="},
      {"int8:seed=1", "seed= needs round=stochastic"},
      {"int8:dialect=ggml", "dialect=ggml; it has onnx"},
      {"int8:layout=split", "layout=split; it has flat, words"},
      {"fp16:range=minmax", "scheme fp16 takes no range="},
      {"fp16:scale=1", "scheme fp16 takes no scale= or zero="},
      {"fp16:axis=0", "fp16:axis=0"},
      {"q8_0:group=64", "it has group=32"},
      {"q8_0:per=tensor", "it has group=32"},
      {"nf4:group=48", "it has group=64, group=128"},
      {"nf4:block=2x2", "nf4:block=2x2"},
  };
  for (const auto& [text, message] : refusals) {
    const absl::Status status = Refused(text);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << text;
    EXPECT_THAT(std::string(status.message()), HasSubstr(message)) << text;
  }
  EXPECT_EQ(Refused("int8:incompatible=int9").code(), absl::StatusCode::kNotFound);
}

TEST(CompleteSpecTest, RefusesSpecsThatNoTextHas) {
  const Scheme& scheme = **FindScheme("int8");
  const auto refuses = [&scheme](auto change) {
    QuantSpec spec = {.scheme = "int8"};
    change(spec);
    return CompleteSpec(spec, scheme).status().code() == absl::StatusCode::kInvalidArgument;
  };
  EXPECT_TRUE(refuses([](QuantSpec& spec) {
    spec.granularity = Granularity{.kind = GranularityKind::kGroup, .group_elems = 0};
  }));
  EXPECT_TRUE(refuses([](QuantSpec& spec) {
    spec.granularity =
        Granularity{.kind = GranularityKind::kBlock, .block_rows = -1, .block_cols = 4};
  }));
  EXPECT_TRUE(refuses([](QuantSpec& spec) { spec.scale = -1; }));
  EXPECT_TRUE(refuses([](QuantSpec& spec) { spec.scale = std::nan(""); }));
  EXPECT_TRUE(refuses([](QuantSpec& spec) { spec.given_range = Range{1, 0}; }));
  EXPECT_TRUE(refuses([](QuantSpec& spec) { spec.range = "minmax,tail=short"; }));
}

TEST(CompleteSpecTest, FillsInWhatIsLeftOpen) {
  const auto resolved = [](absl::string_view text) {
    const QuantSpec spec = *ParseSpec(text);
    return FormatSpec(*CompleteSpec(spec, **FindScheme(spec.scheme)));
  };
  EXPECT_EQ(resolved("int8"),
            "int8:per=tensor,mode=symmetric,range=minmax,round=half_even,scale_type=f32,"
            "dialect=onnx,layout=flat,nonfinite=reject,tail=reject,incompatible=reject");
  EXPECT_EQ(resolved("uint4:scale=0.5,round=stochastic"),
            "uint4:per=tensor,scale=0.5,round=stochastic,seed=0,scale_type=f32,dialect=onnx,"
            "nonfinite=reject,tail=reject,incompatible=reject");
  EXPECT_EQ(resolved("q8_0"),
            "q8_0:group=32,round=half_away,dialect=ggml,nonfinite=reject,tail=reject,"
            "incompatible=reject");
}

// A scheme of three dialects, the second of which prefers and fixes things. In the third, a row is
// a group and the tensor's dtype is that of scales.
Scheme SchemeOfDialects() {
  Scheme scheme;
  SchemeInfo& info = scheme.info;
  info.name = "toy";
  info.granularities = {{.kind = GranularityKind::kTensor}, {.kind = GranularityKind::kGroup}};
  info.modes = {Mode::kSymmetric, Mode::kAsymmetric};
  info.roundings = {Rounding::kHalfEven, Rounding::kHalfAway, Rounding::kStochastic};
  info.scale_types = {ScaleType::kF32, ScaleType::kF16};
  info.layouts = {"flat", "words"};
  info.nonfinites = {NonFinite::kReject, NonFinite::kSaturate};
  info.tails = {Tail::kReject, Tail::kShort};
  info.takes_range = info.takes_scale = true;
  info.dialects = {
      {.name = "plain"},
      {.name = "other",
       .defaults = {.granularity = Granularity{.kind = GranularityKind::kGroup, .group_elems = 64},
                    .mode = Mode::kAsymmetric,
                    .range = "3sigma",
                    .rounding = Rounding::kHalfAway,
                    .scale_type = ScaleType::kF16,
                    .layout = "words",
                    .nonfinite = NonFinite::kSaturate,
                    .tail = Tail::kShort},
       .fixed = {"round", "scale_type"}},
      {.name = "rows", .defaults = {.mode = Mode::kAsymmetric}}};
  scheme.complete = [](const SchemeInfo&, const TensorDesc& tensor, QuantSpec& spec) {
    if (spec.dialect != "rows") return absl::OkStatus();
    if (tensor.dtype == DType::kF16 && !spec.scale_type) spec.scale_type = ScaleType::kF16;
    if (!spec.granularity) {
      spec.granularity =
          Granularity{.kind = GranularityKind::kGroup, .group_elems = tensor.shape.last_dim()};
    }
    if (spec.mode == Mode::kAsymmetric) return absl::OkStatus();
    return absl::InvalidArgumentError("mode=symmetric does not go with dialect=rows");
  };
  return scheme;
}

std::string Completed(absl::string_view text, const TensorDesc& tensor = {}) {
  const absl::StatusOr<QuantSpec> spec = CompleteSpec(*ParseSpec(text), SchemeOfDialects(), tensor);
  return spec.ok() ? FormatSpec(*spec) : std::string(spec.status().message());
}

TEST(DialectTest, TakesWhatIsGivenThenTheDialectsThenTheSchemesDefaults) {
  EXPECT_EQ(Completed("toy"),
            "toy:per=tensor,mode=symmetric,range=minmax,round=half_even,scale_type=f32,"
            "dialect=plain,layout=flat,nonfinite=reject,tail=reject,incompatible=reject");
  EXPECT_EQ(Completed("toy:dialect=other"),
            "toy:group=64,mode=asymmetric,range=3sigma,round=half_away,scale_type=f16,"
            "dialect=other,layout=words,nonfinite=saturate,tail=short,incompatible=reject");
  EXPECT_EQ(Completed("toy:dialect=other,per=tensor,mode=symmetric,layout=flat,tail=reject"),
            "toy:per=tensor,mode=symmetric,range=3sigma,round=half_away,scale_type=f16,"
            "dialect=other,layout=flat,nonfinite=saturate,tail=reject,incompatible=reject");
  // Beside a scale, neither mode nor range applies, whosever default it is.
  EXPECT_EQ(Completed("toy:dialect=other,scale=0.5"),
            "toy:group=64,scale=0.5,round=half_away,scale_type=f16,dialect=other,layout=words,"
            "nonfinite=saturate,tail=short,incompatible=reject");
}

TEST(DialectTest, RefusesWhatItDoesNotHave) {
  EXPECT_EQ(Completed("toy:dialect=other,round=half_even"),
            "dialect other of scheme toy does not have round=half_even; it has half_away");
  EXPECT_EQ(Completed("toy:dialect=other,scale_type=f32"),
            "dialect other of scheme toy does not have scale_type=f32; it has f16");
  EXPECT_EQ(Completed("toy:dialect=new"),
            "scheme toy does not have dialect=new; it has plain, other, rows");
}

TEST(LevelsTest, BelongToSchemesThatListThem) {
  Scheme scheme = SchemeOfDialects();
  scheme.info.levels = {16, 256};
  scheme.info.scale_types.push_back(ScaleType::kNested8);
  const auto completed = [&scheme](absl::string_view text) {
    return CompleteSpec(*ParseSpec(text), scheme);
  };
  EXPECT_EQ(completed("toy")->levels, 16u);
  EXPECT_EQ(completed("toy:levels=256,scale_type=nested8")->levels, 256u);
  EXPECT_THAT(std::string(completed("toy:levels=8").status().message()),
              HasSubstr("levels=8; it has 16, 256"));
  EXPECT_EQ(Completed("toy:levels=16"),
            "scheme toy does not have levels=16; it has nothing for this key");
}

TEST(CompleteHookTest, SeesDialectDtypeAndShapeAndGoesBeforeDefaults) {
  const TensorDesc tensor = {"w", DType::kF16, *Shape::Make({3, 40})};
  const std::string whole =
      "toy:group=40,mode=asymmetric,range=minmax,round=half_even,scale_type=f16,dialect=rows,"
      "layout=flat,nonfinite=reject,tail=reject,incompatible=reject";
  EXPECT_EQ(Completed("toy:dialect=rows", tensor), whole);
  EXPECT_EQ(Completed(whole, tensor), whole);
  EXPECT_EQ(Completed("toy:dialect=rows,mode=symmetric", tensor),
            "mode=symmetric does not go with dialect=rows");
  EXPECT_EQ(Completed("toy:dialect=plain,mode=symmetric", tensor),
            Completed("toy:dialect=plain", tensor));
}

}  // namespace
}  // namespace quantd
