// A tensor as jobs. Whatever the pass, stripes are encoded in order, each by one job:
//
//   parameters known, or found in the stripe   input -> encode
//   a band longer than a stripe                input -> scan, hold ... resolve -> encode from there
//
// where a band may be the whole tensor. Scans are jobs of the same queue: their commits merge the
// evidence in order, and the last one of a band resolves it. So two cutters go over the tensor:
// that of scans, where input goes next, and that of encoding. They are at the same stripe where
// nothing is held, and at most two bands apart. Rows of 100,000 with axis=0, two stripes each:
//
//   scans      |0 1|2 3|       |4 5| ...      the third band waits until all stripes of the first
//   encoding       |0 1|       |2 3| ...      are encoded, and its memory is free
//
// A tensor of one stripe that has to be scanned as a whole is scanned by the job that encodes it.
// Encoding goes before scanning: it frees what is held.
//
// Values that are held are read twice, the second time from memory; all others once, and found in
// the cache by what comes after.
//
// Entry: Session::Begin. Tested by tests/core/session/quantize_session_test.cc, same_bytes_test.cc,
// small_inputs_test.cc, session_faults_test.cc and memory_test.cc.
#include "core/session/quantize_session.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <cstring>
#include <list>
#include <memory>
#include <mutex>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "core/base/digest.h"
#include "core/base/float_env.h"
#include "core/base/status_macros.h"
#include "core/calibrate/calibrator.h"
#include "core/session/held_band.h"
#include "core/session/ordered_jobs.h"
#include "core/session/piece_queue.h"
#include "core/session/stripe_encoder.h"
#include "core/session/stripes.h"

namespace quantd {
namespace {

// What one job encodes: a stripe.
struct EncodeWork {
  static constexpr bool kReusable = true;
  Stripe stripe;
  PieceRange values;
  std::span<std::byte> codes;
  std::shared_ptr<HeldBand> held;      // where the values lie, or, of a single stripe, null
  std::shared_ptr<BandParams> params;  // null: own
  ParamBuffer own;
  StripeResult result;
};

// What one job scans: a stripe of a band that is held.
struct ScanWork {
  static constexpr bool kReusable = false;
  Stripe stripe;
  PieceRange values;
  std::span<std::byte> place;  // that the values are copied to; empty: they stay where they are
  std::shared_ptr<HeldBand> held;
  EvidenceCollector::Part part;
};

class Session final : public QuantizeSession {
 public:
  Session(Plan plan, QuantizeOptions options, PayloadSink& sink, const SessionContext& context,
          MemoryBudget::Reservation reservation, ChosenCalibrator calibrator,
          std::function<void()> on_event)
      : QuantizeSession(context, plan.stripes_in_flight, plan.input_bytes,
                        absl::StrCat("tensor \"", plan.resolved.tensor.name, "\""),
                        std::move(on_event)),
        plan_(std::move(plan)),
        options_(std::move(options)),
        sink_(sink),
        context_(context),
        reservation_(std::move(reservation)),
        calibrator_(calibrator),
        resolved_(plan_.resolved),
        layout_(resolved_.layout),
        num_elems_(resolved_.tensor.shape.num_elems()),
        elem_bytes_(SizeOf(resolved_.tensor.dtype)),
        importance_(ImportanceOf(options_, resolved_.tensor.shape)),
        encoder_(plan_, calibrator_, options_.ranges,
                 options_.importance.empty() ? nullptr : &importance_, options_.figures,
                 sink.wants_crc()),
        whole_(WholeTensor(num_elems_)),
        digests_(layout_.planes.size()),
        encode_cutter_(layout_, num_elems_),
        scan_cutter_(layout_, num_elems_) {
    report_.has_figures = options_.figures;
    for (size_t plane = 1; plane < layout_.planes.size(); ++plane) {
      const PlaneDesc& desc = layout_.planes[plane];
      if (desc.role != PlaneRole::kConstant) continue;
      constant_bytes_[plane].resize(static_cast<size_t>(desc.size_bytes));
      constants_.planes[plane] = constant_bytes_[plane];
    }
    if (plan_.known_constants) ResolveConstants({}, {}, nullptr);
    const bool one_band = !layout_.groups.IsLocal(num_elems_);
    if (plan_.known_params && one_band) {
      shared_params_ = std::make_shared<BandParams>(GroupSpan{0, layout_.groups.num_groups});
    }
  }
  ~Session() override { Stop(); }

  void Push(Piece piece) override {
    TakeIn([&] { input_.Push(piece); });
  }
  absl::StatusOr<EncodingReport> Finish() override {
    QUANTD_RETURN_IF_ERROR(result());
    EncodingReport report = report_;
    for (const PlaneDigest& digest : digests_) report.digests.push_back(digest.Text());
    return report;
  }
  const Plan& plan() const override { return plan_; }

  // --- Work, on any thread ---

  void Run(EncodeWork& job) {
    const ScopedTimer timer(encoding_ns_);
    if (plan_.pass == Pass::kBuffered && job.held == nullptr) {  // one stripe is the tensor
      const std::shared_ptr<HeldBand> held = MakeHeld(job.stripe);
      held->whole = job.values.bytes;
      held->evidence->Merge(held->evidence->Scan(job.stripe, job.values.bytes));
      ResolveHeld(*held);
      job.params = held->params;
    }
    if (job.params != nullptr) {
      BandParams& band = *job.params;
      if (plan_.known_params) {
        std::call_once(band.resolved, [&] {
          band.params.Reset(layout_, band.groups);
          encoder_.Resolve(constants_, {}, band.params);
        });
      }
      encoder_.Encode(job.stripe, job.values.bytes,
                      band.params.PlanesFrom(layout_, constants_, band.groups.first), job.codes,
                      job.result);
    } else {
      encoder_.ResolveAndEncode(job.stripe, job.values.bytes, constants_, job.codes, job.own,
                                job.result);
    }
    job.values.Clear();  // lent memory goes back
  }

  void Run(ScanWork& job) {
    const ScopedTimer timer(statistics_ns_);
    if (!job.place.empty()) {
      std::byte* out = job.place.data();
      for (const std::span<const std::byte> piece : job.values.bytes.pieces()) {
        std::memcpy(out, piece.data(), piece.size());
        out += piece.size();
      }
      job.values.Clear();
      job.values.bytes.Append(job.place);
    }
    job.part = job.held->evidence->Scan(job.stripe, job.values.bytes);
    job.values.Clear();
  }

  // --- Commits, one at a time, in order ---

  absl::Status Commit(ScanWork& job) {
    HeldBand& held = *job.held;
    held.evidence->Merge(job.part);
    if (job.stripe.end < held.end) return absl::OkStatus();
    const ScopedTimer timer(statistics_ns_);
    ResolveHeld(held);
    held.resolved.store(true, std::memory_order_release);
    return absl::OkStatus();
  }

  absl::Status Commit(EncodeWork& job) {
    StripeResult& result = job.result;
    if (result.non_finite > 0 && *resolved_.spec.nonfinite == NonFinite::kReject) {
      const std::vector<NonFinite>& has = resolved_.info->nonfinites;
      const bool saturates = std::find(has.begin(), has.end(), NonFinite::kSaturate) != has.end();
      return absl::InvalidArgumentError(absl::StrCat(
          "tensor \"", resolved_.tensor.name, "\" has a value that is not finite at ",
          CoordinatesText(resolved_.tensor.shape, result.first_non_finite.front()), "; ",
          saturates ? "to accept it use nonfinite=saturate"
                    : absl::StrCat("scheme ", resolved_.info->name, " takes no such values")));
    }
    if (job.stripe.index == 0) PutPlanes(PlaneRole::kConstant, {}, nullptr);
    if (job.params == nullptr) {
      PutPlanes(PlaneRole::kPerGroup, job.own.groups(), &job.own);
    } else if (!std::exchange(job.params->is_put, true)) {
      PutPlanes(PlaneRole::kPerGroup, job.params->groups, &job.params->params);
    }
    PutOutliers(job.stripe, result.outliers);
    report_.figures.Merge(result.figures);
    report_.clipped += result.clipped;
    report_.inexact_inputs += result.inexact;
    report_.non_finite += result.non_finite;
    for (const int64_t elem : result.first_non_finite) {
      if (report_.first_non_finite_elems.size() == kMaxNonFiniteListed) break;
      report_.first_non_finite_elems.push_back(elem);
    }
    digests_[0].Append(result.digest);
    if (!job.codes.empty()) {
      sink_.Commit(layout_.CodeOffset(job.stripe.begin), std::ssize(job.codes), result.crc32c);
    }
    job.held = nullptr;
    job.params = nullptr;
    ++stripes_;
    return absl::OkStatus();
  }

 private:
  // --- Dispatch, under the lock ---

  // True if the stripe's values are held before they are encoded.
  bool Holds(const Stripe& stripe) const {
    return plan_.held_bytes > 0 && (plan_.pass == Pass::kBuffered || stripe.long_band());
  }
  int64_t NextInputBytes() const { return scan_cutter_.stripe().num_elems() * elem_bytes_; }
  bool HasStripe() const override {
    return !scan_cutter_.done() && input_.size_bytes() >= NextInputBytes();
  }
  bool MayBegin() const override { return MayEncode() || MayScan(); }
  std::unique_ptr<StripeJob> Begin() override {
    if (MayEncode()) {
      if (std::unique_ptr<StripeJob> job = BeginEncode(); job != nullptr) return job;
    }
    return MayScan() ? BeginScan() : nullptr;
  }
  bool AllBegun() const override { return encode_cutter_.done(); }

  bool MayEncode() const {
    if (encode_cutter_.done() || sink_is_full_) return false;
    const Stripe& stripe = encode_cutter_.stripe();
    if (Holds(stripe)) {
      return !held_.empty() && held_.front()->resolved.load(std::memory_order_acquire);
    }
    return scan_cutter_.stripe().index == stripe.index && HasStripe();
  }
  bool MayScan() const {
    if (!HasStripe() || !Holds(scan_cutter_.stripe())) return false;
    constexpr int kMaxHeld = 2;  // as planned
    const bool begins = held_.empty() || held_.back()->taken_end == held_.back()->end;
    return !begins || num_held_.load() < kMaxHeld;
  }
  bool InputIsSpent() const override {
    if (!encode_cutter_.done() && Holds(encode_cutter_.stripe()) && !held_.empty()) {
      return held_.front()->taken_end < held_.front()->end && !MayScan();
    }
    return !HasStripe();
  }

  std::unique_ptr<StripeJob> BeginEncode() {
    const Stripe& stripe = encode_cutter_.stripe();
    const int64_t offset = layout_.CodeOffset(stripe.begin);
    const int64_t size_bytes = stripe.num_elems() == 0 ? 0 : layout_.CodeOffset(stripe.end) - offset;
    const std::optional<std::span<std::byte>> codes = AcquireFrom(sink_, offset, size_bytes);
    if (!codes.has_value()) return nullptr;
    auto job = NewJob<JobOf<Session, EncodeWork>>(*this);
    job->stripe = stripe;
    job->codes = *codes;
    job->held = nullptr;
    job->values.Clear();
    job->params = shared_params_;
    if (Holds(stripe)) {
      job->held = held_.front();
      job->params = job->held->params;
      job->held->whole.Slice((stripe.begin - job->held->begin) * elem_bytes_,
                             stripe.num_elems() * elem_bytes_, job->values.bytes);
      if (stripe.end == job->held->end) held_.pop_front();
    } else {
      input_.Take(stripe.num_elems() * elem_bytes_, job->values);
      scan_cutter_.Next();
      if (plan_.known_params && stripe.long_band() && layout_.groups.IsLocal(num_elems_)) {
        if (stripe.begin == stripe.band_begin) {
          band_params_ = std::make_shared<BandParams>(
              GroupsOf(layout_, stripe.band_begin, stripe.band_end));
        }
        job->params = band_params_;
      }
    }
    encode_cutter_.Next();
    return job;
  }

  std::unique_ptr<StripeJob> BeginScan() {
    auto job = std::make_unique<JobOf<Session, ScanWork>>(*this);
    job->stripe = scan_cutter_.stripe();
    const bool begins = held_.empty() || held_.back()->taken_end == held_.back()->end;
    if (begins) held_.push_back(MakeHeld(job->stripe));
    HeldBand& held = *held_.back();
    job->held = held_.back();
    input_.Take(NextInputBytes(), job->values);
    const absl::StatusOr<std::span<std::byte>> place =
        held.TakeIn(job->values, (job->stripe.begin - held.begin) * elem_bytes_,
                    (held.end - held.begin) * elem_bytes_, *context_.pool);
    if (!place.ok()) {
      no_memory_ = place.status();
      return nullptr;
    }
    job->place = *place;
    held.taken_end = job->stripe.end;
    scan_cutter_.Next();
    return job;
  }

  std::shared_ptr<HeldBand> MakeHeld(const Stripe& stripe) {
    const bool whole = plan_.pass == Pass::kBuffered;
    const int64_t begin = whole ? 0 : stripe.band_begin, end = whole ? num_elems_ : stripe.band_end;
    ++num_held_;
    std::shared_ptr<HeldBand> held(new HeldBand(begin, end), [this](HeldBand* band) {
      delete band;
      --num_held_;
    });
    held->evidence.emplace(layout_, evidence_map(), num_elems_, resolved_.tensor.dtype,
                           EvidenceWantsOf(plan_), begin, end);
    return held;
  }
  // Whose evidence is gathered: that of groups, once the constants are known.
  const GroupMap& evidence_map() const {
    return plan_.known_constants ? layout_.groups : EvidenceMapOf(plan_, whole_);
  }

  // Makes what depends on all of a band: the constants, where it is the tensor, and parameters that
  // stripes cannot find themselves.
  void ResolveHeld(HeldBand& held) {
    const std::vector<GroupStats> stats = held.evidence->TakeStats();
    const GroupSpan groups = {held.evidence->first_group(), std::ssize(stats)};
    const std::unique_ptr<Histogram> counts = held.evidence->TakeHistogram();
    const std::vector<Sketch> sketches = held.evidence->TakeSketches();
    const bool of_groups = &evidence_map() != &whole_;
    auto params = std::make_shared<BandParams>(groups);
    std::vector<Range> ranges;
    if (of_groups) {
      params->params.Reset(layout_, groups);
      const Stripe band = {.begin = held.begin, .end = held.end};
      ranges = encoder_.RangesOf(stats, counts.get(), sketches, band, held.whole, constants_,
                                 params->params);
    }
    if (!plan_.known_constants) {
      ResolveConstants(stats, ranges, counts.get());
      // Groups within stripes find theirs, now that the constants are known.
      if (!of_groups) return;
    }
    held.evidence.reset();
    if (layout_.from_values()) {
      encoder_.ResolveValues({.begin = held.begin, .end = held.end}, held.whole, constants_,
                             params->params);
    } else {
      encoder_.Resolve(constants_, ranges, params->params);
    }
    held.params = std::move(params);
  }

  // From `stats` of the tensor, or `found` ranges of all its groups, and `histogram`, or what is
  // given.
  void ResolveConstants(std::span<const GroupStats> stats, std::span<const Range> found,
                        const Histogram* histogram) {
    if (plan_.scheme->resolve_constants == nullptr) return;
    TensorEvidence evidence;
    std::vector<Range> ranges;
    if ((layout_.tensor_evidence & kGroupRanges) != 0) {
      evidence.groups = found;
      if (found.empty()) {
        for (int64_t group = 0; group < layout_.groups.num_groups; ++group) {
          ranges.push_back(encoder_.RangeOf(group, nullptr));
        }
        evidence.groups = ranges;
      }
    } else if (options_.tensor_range.has_value()) {
      evidence.range = *options_.tensor_range;
    } else if (resolved_.spec.given_range.has_value()) {
      evidence.range = *resolved_.spec.given_range;
    } else if (!stats.empty()) {
      evidence.range = calibrator_.RangeOf(stats[0]);
    }
    evidence.histogram = options_.histogram.has_value() ? &*options_.histogram : histogram;
    evidence.codebook = options_.codebook;
    plan_.scheme->resolve_constants(resolved_, evidence, constants_);
  }

  void PutPlanes(PlaneRole role, GroupSpan groups, const ParamBuffer* params) {
    for (size_t plane = 1; plane < layout_.planes.size(); ++plane) {
      const PlaneDesc& desc = layout_.planes[plane];
      if (desc.role != role) continue;
      const std::span<const std::byte> bytes =
          params == nullptr ? constant_bytes_[plane] : params->plane(plane);
      if (bytes.empty()) continue;
      const int64_t offset = params == nullptr ? 0
                                               : groups.first / desc.groups_per_entry *
                                                     layout_.EntryBytes(plane);
      digests_[plane].Update(bytes);
      sink_.Put(static_cast<int>(plane), offset, bytes);
    }
  }

  void PutOutliers(const Stripe& stripe, const OutlierEntries& entries) {
    if (layout_.outliers == 0) return;
    const int64_t first_entry = stripe.begin / layout_.outlier_row_elems * layout_.outliers;
    for (size_t plane = layout_.scheme_planes(); plane < layout_.planes.size(); ++plane) {
      const bool is_index = plane == layout_.scheme_planes();
      const std::span<const std::byte> bytes = is_index ? entries.indices : entries.values;
      if (bytes.empty()) continue;
      digests_[plane].Update(bytes);
      sink_.Put(static_cast<int>(plane), first_entry * SizeOf(layout_.planes[plane].dtype), bytes);
    }
  }

  const Plan plan_;
  const QuantizeOptions options_;
  PayloadSink& sink_;
  const SessionContext context_;
  const MemoryBudget::Reservation reservation_;
  const ChosenCalibrator calibrator_;
  const Resolved& resolved_;
  const PackedLayout& layout_;
  const int64_t num_elems_;
  const int64_t elem_bytes_;
  const Importance importance_;
  const StripeEncoder encoder_;
  const GroupMap whole_;

  // Written before the stripes that read them are dispatched.
  std::array<std::vector<std::byte>, kMaxPlanes> constant_bytes_;
  ParamPlanes constants_;
  std::shared_ptr<BandParams> shared_params_;  // known and of the whole tensor

  // The committer's.
  EncodingReport report_;
  std::vector<PlaneDigest> digests_;  // by plane

  // The dispatcher's, under the lock.
  StripeCutter encode_cutter_;  // the next stripe to encode
  StripeCutter scan_cutter_;    // the next one whose values are to come: the same, or ahead
  std::atomic<int> num_held_ = 0;  // which jobs may have beside `held_`
  std::list<std::shared_ptr<HeldBand>> held_;  // not all begun; the last one may not be all here
  std::shared_ptr<BandParams> band_params_;     // of the long band at hand, whose ranges are given
};

}  // namespace

absl::StatusOr<std::unique_ptr<QuantizeSession>> QuantizeSession::Create(
    Plan plan, QuantizeOptions options, PayloadSink& sink, const SessionContext& context,
    std::function<void()> on_event) {
  const Resolved& resolved = plan.resolved;
  if (plan.pass == Pass::kTwoPass) {
    return absl::FailedPreconditionError(
        absl::StrCat("tensor \"", resolved.tensor.name, "\" (", plan.input_bytes,
                     " bytes) does not fit the memory of a session, and its parameters depend on "
                     "all of it; call "
                     "Calibrate and send it again with the ranges, or use group=, axis=0, scale= "
                     "or a given range"));
  }
  QUANTD_RETURN_IF_ERROR(CheckOptions(plan, options));
  QUANTD_ASSIGN_OR_RETURN(const ChosenCalibrator calibrator, FindCalibrator(resolved.spec.range));
  QUANTD_ASSIGN_OR_RETURN(
      MemoryBudget::Reservation reservation,
      context.budget->Reserve(plan.resident_bytes,
                              absl::StrCat("tensor \"", resolved.tensor.name, "\"")));
  ScopedFloatEnv float_env;
  return std::make_unique<Session>(std::move(plan), std::move(options), sink, context,
                                   std::move(reservation), calibrator, std::move(on_event));
}

absl::StatusOr<QuantizedTensor> QuantizeAll(const QuantSpec& spec, const TensorDesc& tensor,
                                            std::span<const std::byte> values,
                                            const QuantizeOptions& options,
                                            const SessionContext& context) {
  QuantizedTensor result;
  PlanInputs inputs;
  inputs.has_ranges = !options.ranges.empty() || options.tensor_range.has_value() ||
                      options.histogram.has_value();
  inputs.importance_elems = std::ssize(options.importance);
  inputs.codebook_levels = std::ssize(options.codebook);
  inputs.threads = context.executor->workers() + 1;
  QUANTD_ASSIGN_OR_RETURN(result.plan,
                          MakePlan(spec, tensor, context.budget->limit_bytes(), inputs));
  std::vector<std::span<std::byte>> planes;
  for (const PlaneDesc& plane : result.plan.resolved.layout.planes) {
    planes.push_back(result.planes.emplace_back(static_cast<size_t>(plane.size_bytes)));
  }
  SpanSink sink(std::move(planes));
  QUANTD_ASSIGN_OR_RETURN(std::unique_ptr<QuantizeSession> session,
                          QuantizeSession::Create(result.plan, options, sink, context));
  session->Push({values, nullptr});
  session->EndInput();
  session->Await();
  QUANTD_ASSIGN_OR_RETURN(result.report, session->Finish());
  return result;
}

}  // namespace quantd
