// A packed tensor as jobs, each of which decodes one stripe:
//
//   Push(0, codes)       -> CheckParams -> CheckedInput -> StripeCutter -> DecodeStripe -> Commit
//   Push(1.., params)    -> planes that are kept whole ------------------------^            |
//                                                                           sink, plane 0 <-'
//
// Parameters precede the codes that need them. Whether they have come is asked when codes are
// pushed, not when a stripe is worked on, so that the answer depends on what was sent alone: for
// int8:axis=0 of [2, 65536] the last code of a row, which ends a stripe, wants the row's four bytes
// of "scale" before it; per tensor, and of columns, it wants the whole plane. Layouts with trailers
// are cut into whole rows.
//
// Beside quantizing, there is nothing to scan and to hold: one pass, with the parameter planes and
// the stripes in flight in memory.
//
// Entry: Session::Begin. Tested by tests/core/session/dequantize_session_test.cc,
// dequantize_faults_test.cc and same_bytes_test.cc.
#include "core/session/dequantize_session.h"

#include <algorithm>
#include <cstring>
#include <optional>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "core/base/checked_math.h"
#include "core/base/digest.h"
#include "core/base/status_detail.h"
#include "core/base/status_macros.h"
#include "core/session/ordered_jobs.h"
#include "core/session/piece_queue.h"
#include "core/session/stripe_decoder.h"
#include "core/session/stripes.h"

namespace quantd {

namespace {

// What one job decodes.
struct DecodeWork {
  static constexpr bool kReusable = true;
  Stripe stripe;
  PieceRange codes;
  std::span<std::byte> values;
  DecodedStripe result;
};

std::string NameOf(const PlaneDesc& plane) { return absl::StrCat("plane \"", plane.name, "\""); }

class Session final : public DequantizeSession {
 public:
  Session(Plan plan, DType output_dtype, PayloadSink& sink, const SessionContext& context,
          MemoryBudget::Reservation reservation, std::vector<BufferPool::Buffer> params,
          std::function<void()> on_event)
      : DequantizeSession(context, plan.stripes_in_flight, plan.resolved.layout.planes[0].size_bytes,
                          NameOf(plan.resolved.layout.planes[0]), std::move(on_event)),
        plan_(std::move(plan)),
        output_dtype_(output_dtype),
        sink_(sink),
        crc_(sink.wants_crc()),
        reservation_(std::move(reservation)),
        layout_(plan_.resolved.layout),
        num_elems_(plan_.resolved.tensor.shape.num_elems()),
        digests_(layout_.planes.size()),
        cutter_(layout_, num_elems_, /*whole_rows=*/layout_.trailer_bytes > 0),
        check_cutter_(layout_, num_elems_, layout_.trailer_bytes > 0),
        received_(layout_.planes.size()),
        params_(std::move(params)) {
    for (size_t plane = 1; plane < params_.size(); ++plane) view_.planes[plane] = params_[plane].span();
  }
  ~Session() override { Stop(); }

  void Push(int plane, Piece piece) override {
    TakeIn([&] { Take(plane, piece); });
  }
  absl::StatusOr<DecodingReport> Finish() override {
    QUANTD_RETURN_IF_ERROR(result());
    DecodingReport report;
    report.plane_digests.reserve(digests_.size());
    for (const PlaneDigest& digest : digests_) report.plane_digests.push_back(digest.Text());
    report.values_digest = values_digest_.Text();
    report.saturated = saturated_;
    return report;
  }
  const Plan& plan() const override { return plan_; }

  void Run(DecodeWork& work) {
    const ScopedTimer timer(encoding_ns_);
    DecodeStripe(plan_, work.stripe, work.codes.bytes, view_, output_dtype_, crc_, work.values,
                 work.result);
    work.codes.Clear();  // lent memory goes back
  }

  absl::Status Commit(DecodeWork& work) {
    QUANTD_RETURN_IF_ERROR(work.result.status);
    digests_[0].Append(work.result.codes);
    values_digest_.Append(work.result.values);
    saturated_ += work.result.saturated;
    if (!work.values.empty()) {
      sink_.Commit(work.stripe.begin * SizeOf(output_dtype_), std::ssize(work.values),
                   work.result.crc32c);
    }
    ++stripes_;
    return absl::OkStatus();
  }

 private:
  bool HasStripe() const override {
    return !cutter_.done() && input_.size_bytes() >= CodeBytesOf(cutter_.stripe());
  }
  bool AllBegun() const override { return cutter_.done() && ParamsComplete(); }
  bool MayTakeMore() const override {
    return input_.error().ok() && (input_.may_come() || !ParamsComplete()) && !HasStripe();
  }
  void CheckEnd() override {
    input_.End();
    for (size_t plane = 1; plane < received_.size(); ++plane) {
      const PlaneDesc& desc = layout_.planes[plane];
      input_.Fail(MissingBytes(NameOf(desc), desc.size_bytes, received_[plane]));
    }
  }
  std::unique_ptr<StripeJob> Begin() override {
    const Stripe& stripe = cutter_.stripe();
    const int64_t elem_bytes = SizeOf(output_dtype_);
    const std::optional<std::span<std::byte>> values =
        AcquireFrom(sink_, stripe.begin * elem_bytes, stripe.num_elems() * elem_bytes);
    if (!values.has_value()) return nullptr;
    auto job = NewJob<JobOf<Session, DecodeWork>>(*this);
    job->stripe = stripe;
    job->values = *values;
    job->codes.Clear();
    input_.Take(CodeBytesOf(stripe), job->codes);
    cutter_.Next();
    return job;
  }

  bool ParamsComplete() const {
    for (size_t plane = 1; plane < received_.size(); ++plane) {
      if (received_[plane] < layout_.planes[plane].size_bytes) return false;
    }
    return true;
  }
  int64_t CodeBytesOf(const Stripe& stripe) const {
    if (stripe.num_elems() == 0) return 0;
    return layout_.CodeOffset(stripe.end) - layout_.CodeOffset(stripe.begin);
  }

  // Takes a piece in, under the lock.
  void Take(int plane, Piece& piece) {
    if (plane < 0 || plane >= std::ssize(layout_.planes)) {
      input_.Fail(absl::InvalidArgumentError(
          absl::StrCat("plane ", plane, " is not one of the tensor's ", layout_.planes.size())));
    } else if (plane > 0) {
      TakeParams(static_cast<size_t>(plane), piece.bytes);
    } else {
      const absl::Status status =
          CheckParams(input_.received_bytes() + static_cast<int64_t>(piece.bytes.size()));
      if (!status.ok()) return input_.Fail(status);
      input_.Push(piece);
    }
  }

  void TakeParams(size_t plane, std::span<const std::byte> bytes) {
    if (!input_.error().ok()) return;
    const int64_t left_bytes = layout_.planes[plane].size_bytes - received_[plane];
    const int64_t more_bytes = std::ssize(bytes) - left_bytes;
    if (more_bytes > 0) {
      return input_.Fail(TooManyBytes(NameOf(layout_.planes[plane]),
                                      layout_.planes[plane].size_bytes, more_bytes));
    }
    if (!bytes.empty()) {
      std::memcpy(params_[plane].data() + received_[plane], bytes.data(), bytes.size());
    }
    received_[plane] += std::ssize(bytes);
    digests_[plane].Update(bytes);
  }

  // Returns the bytes of a plane that decoding up to element `end_elem`, of `groups`, needs.
  int64_t NeededBytes(size_t plane, int64_t end_elem, int64_t groups) const {
    const PlaneDesc& desc = layout_.planes[plane];
    switch (desc.role) {
      case PlaneRole::kCodes:
      case PlaneRole::kConstant:
        break;
      case PlaneRole::kPerGroup:
        return CeilDiv(groups, desc.groups_per_entry) * layout_.EntryBytes(plane);
      case PlaneRole::kPerRow:
        return end_elem / layout_.outlier_row_elems * layout_.outliers * SizeOf(desc.dtype);
    }
    return desc.size_bytes;
  }

  // The parameters of all stripes that `code_bytes` complete must have come.
  absl::Status CheckParams(int64_t code_bytes) {
    int64_t end_elem = -1;
    while (!check_cutter_.done() && check_cutter_.stripe().num_elems() > 0 &&
           layout_.CodeOffset(check_cutter_.stripe().end) <= code_bytes) {
      end_elem = check_cutter_.stripe().end;
      check_cutter_.Next();
    }
    if (end_elem <= 0) return absl::OkStatus();
    int64_t needed_groups = layout_.groups.num_groups;
    if (layout_.groups.IsLocal(num_elems_)) {
      const GroupSpan groups = GroupsOf(layout_, end_elem - 1, end_elem);
      needed_groups = groups.first + groups.count;
    }
    for (size_t plane = 1; plane < received_.size(); ++plane) {
      const PlaneDesc& desc = layout_.planes[plane];
      const int64_t needed_bytes = NeededBytes(plane, end_elem, needed_groups);
      if (received_[plane] >= needed_bytes) continue;
      return absl::FailedPreconditionError(
          absl::StrCat("codes came before their parameters: ", NameOf(desc), " needs ",
                       needed_bytes, " bytes by now and has ", received_[plane]));
    }
    return absl::OkStatus();
  }

  const Plan plan_;
  const DType output_dtype_;
  PayloadSink& sink_;
  const bool crc_;
  const MemoryBudget::Reservation reservation_;
  const PackedLayout& layout_;
  const int64_t num_elems_;
  // The committer's, but for those of parameters, which are kept under the lock of jobs_.
  std::vector<PlaneDigest> digests_;  // by plane
  PlaneDigest values_digest_;
  int64_t saturated_ = 0;

  // The dispatcher's, under the lock.
  StripeCutter cutter_;        // the next stripe to decode
  StripeCutter check_cutter_;  // the next one whose codes are not all here
  std::vector<int64_t> received_;  // bytes of parameter planes, by plane
  std::vector<BufferPool::Buffer> params_;  // by plane, whole; what has come is not written again
  ParamView view_;                          // of them
};

}  // namespace

int64_t DequantizeResidentBytes(const Plan& plan, DType output_dtype) {
  const PackedLayout& layout = plan.resolved.layout;
  const int64_t num_elems = plan.resolved.tensor.shape.num_elems();
  int64_t stripe_elems = std::min(num_elems, kStripeElems);
  if (layout.trailer_bytes > 0) stripe_elems = std::max(stripe_elems, layout.row_elems);
  int64_t stripe_bytes =
      SaturatingAdd(SaturatingMul(stripe_elems, SizeOf(output_dtype)),
                    SaturatingAdd(SaturatingMul(2, MaxCodeBytes(layout, stripe_elems)),
                                  PieceQueue::kBlockBytes));
  stripe_bytes = SaturatingAdd(stripe_bytes, ReadOutliersBytes(layout, stripe_elems));
  const int64_t param_bytes = SaturatingAdd(ParamBytes(layout, layout.groups.num_groups),
                                            OutlierEntryBytes(layout, num_elems));
  return SaturatingAdd(param_bytes, SaturatingMul(plan.stripes_in_flight, stripe_bytes));
}

absl::StatusOr<std::unique_ptr<DequantizeSession>> DequantizeSession::Create(
    Plan plan, DType output_dtype, PayloadSink& sink, const SessionContext& context,
    std::function<void()> on_event) {
  const TensorDesc& tensor = plan.resolved.tensor;
  if (!IsDequantizeTarget(output_dtype)) {
    return WithField(
        absl::InvalidArgumentError(absl::StrCat("values of dtype ", NameOf(output_dtype),
                                                " cannot be given; use f64, f32, f16 or bf16")),
        "output_data_type");
  }
  QUANTD_RETURN_IF_ERROR(SizeBytes({tensor.name, output_dtype, tensor.shape}).status());
  QUANTD_ASSIGN_OR_RETURN(MemoryBudget::Reservation reservation,
                          context.budget->Reserve(DequantizeResidentBytes(plan, output_dtype),
                                                  absl::StrCat("tensor \"", tensor.name, "\"")));
  const std::vector<PlaneDesc>& planes = plan.resolved.layout.planes;
  std::vector<BufferPool::Buffer> params(planes.size());  // that of plane 0 is empty
  for (size_t plane = 1; plane < planes.size(); ++plane) {
    QUANTD_ASSIGN_OR_RETURN(params[plane],
                            context.pool->Acquire(static_cast<size_t>(planes[plane].size_bytes)));
  }
  return std::make_unique<Session>(std::move(plan), output_dtype, sink, context,
                                   std::move(reservation), std::move(params), std::move(on_event));
}

}  // namespace quantd
