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
// Entry: Impl::Next. Tested by tests/core/session/dequantize_session_test.cc,
// dequantize_faults_test.cc and same_bytes_test.cc.
#include "core/session/dequantize_session.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>
#include <optional>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "core/base/checked_math.h"
#include "core/base/digest.h"
#include "core/base/float_env.h"
#include "core/base/status_macros.h"
#include "core/session/ordered_jobs.h"
#include "core/session/piece_queue.h"
#include "core/session/stripe_decoder.h"
#include "core/session/stripes.h"

namespace quantd {

class DequantizeSession::Impl final : public JobSource {
 public:
  Impl(Plan plan, DType output_dtype, PayloadSink& sink, const SessionContext& context,
       MemoryBudget::Reservation reservation, std::function<void()> on_event)
      : plan_(std::move(plan)),
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
        codes_(layout_.planes[0].size_bytes, NameOfPlane(0)),
        jobs_(std::make_shared<OrderedJobs>(*this, *context.executor, plan_.stripes_in_flight,
                                            std::move(on_event))) {
    params_.resize(layout_.planes.size());
    for (size_t plane = 1; plane < params_.size(); ++plane) {
      params_[plane] = context.pool->Acquire(static_cast<size_t>(layout_.planes[plane].size_bytes));
      view_.planes[plane] = params_[plane].span();
    }
  }
  ~Impl() override { jobs_->Stop(); }

  OrderedJobs& jobs() { return *jobs_; }
  const Plan& plan() const { return plan_; }

  void Push(int plane, Piece piece) {
    std::vector<Piece> settled;  // let go of when the lock is released, like `piece`
    jobs_->Change([&] {
      Take(plane, piece);
      if (!HasStripe()) settled = codes_.Settle();
    });
  }
  void EndInput() {
    jobs_->Change([&] {
      codes_.End();
      for (size_t plane = 1; plane < received_.size(); ++plane) {
        const int64_t size_bytes = layout_.planes[plane].size_bytes;
        if (received_[plane] == size_bytes) continue;
        codes_.Fail(absl::DataLossError(absl::StrCat(NameOfPlane(plane), " has ", size_bytes,
                                                     " bytes; ", size_bytes - received_[plane],
                                                     " of them are missing")));
      }
    });
  }
  void FailInput(const absl::Status& status) {
    jobs_->Wake([&] { codes_.Fail(status); });
  }
  void Ready() {
    jobs_->Wake([&] { sink_is_full_ = false; });
  }

  absl::StatusOr<DecodingReport> Finish() {
    QUANTD_RETURN_IF_ERROR(jobs_->result());
    DecodingReport report;
    for (const PlaneDigest& digest : digests_) report.plane_digests.push_back(digest.Text());
    report.values_digest = values_digest_.Text();
    return report;
  }
  SessionWork work() {
    SessionWork work;
    work.stripes = stripes_.load();
    work.encoding = std::chrono::nanoseconds(decoding_ns_.load());
    return work;
  }

  // --- JobSource ---

  std::unique_ptr<Job> Next() override {
    if (MayDecode()) return NextDecode();
    if (!MayFail()) return nullptr;
    failed_ = true;
    return std::make_unique<FailingJob>(codes_.error());
  }
  bool MayHaveNext() override { return MayDecode() || MayFail(); }
  bool Exhausted() override { return failed_ || (cutter_.done() && ParamsComplete()); }
  bool WantsInput() override {
    if (!codes_.error().ok()) return false;
    return (codes_.may_come() || !ParamsComplete()) && !HasStripe();
  }
  void Recycle(std::unique_ptr<Job> job) override {
    if (auto* decode = dynamic_cast<DecodeJob*>(job.get())) {
      job.release();
      spare_.emplace_back(decode);
    }
  }

 private:
  class DecodeJob final : public Job {
   public:
    explicit DecodeJob(Impl& impl) : impl_(impl) {}
    void Run() override { impl_.Decode(*this); }
    absl::Status Commit() override { return impl_.Commit(*this); }

    Stripe stripe;
    PieceRange codes;
    std::span<std::byte> values;
    DecodedStripe result;

   private:
    Impl& impl_;
  };

  std::string NameOfPlane(size_t plane) const {
    return absl::StrCat("plane \"", layout_.planes[plane].name, "\"");
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
  bool HasStripe() const {
    return !cutter_.done() && codes_.size_bytes() >= CodeBytesOf(cutter_.stripe());
  }
  bool MayDecode() const { return HasStripe() && !sink_is_full_; }
  bool MayFail() const { return !failed_ && !codes_.error().ok() && !HasStripe(); }

  // Takes a piece in, under the lock.
  void Take(int plane, Piece& piece) {
    if (plane < 0 || plane >= std::ssize(layout_.planes)) {
      codes_.Fail(absl::InvalidArgumentError(
          absl::StrCat("plane ", plane, " is not one of the tensor's ", layout_.planes.size())));
    } else if (plane > 0) {
      TakeParams(static_cast<size_t>(plane), piece.bytes);
    } else {
      const absl::Status status =
          CheckParams(codes_.received_bytes() + static_cast<int64_t>(piece.bytes.size()));
      if (!status.ok()) return codes_.Fail(status);
      codes_.Push(piece);
    }
  }

  void TakeParams(size_t plane, std::span<const std::byte> bytes) {
    if (!codes_.error().ok()) return;
    const int64_t left_bytes = layout_.planes[plane].size_bytes - received_[plane];
    const int64_t more_bytes = std::ssize(bytes) - left_bytes;
    if (more_bytes > 0) {
      return codes_.Fail(absl::OutOfRangeError(absl::StrCat(
          NameOfPlane(plane), " has ", layout_.planes[plane].size_bytes, " bytes; ", more_bytes,
          " more were sent")));
    }
    if (!bytes.empty()) {
      std::memcpy(params_[plane].data() + received_[plane], bytes.data(), bytes.size());
    }
    received_[plane] += std::ssize(bytes);
    digests_[plane].Update(bytes);
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
      const int64_t needed_bytes =
          desc.role == PlaneRole::kConstant
              ? desc.size_bytes
              : CeilDiv(needed_groups, desc.groups_per_entry) * layout_.EntryBytes(plane);
      if (received_[plane] >= needed_bytes) continue;
      return absl::FailedPreconditionError(
          absl::StrCat("codes came before their parameters: ", NameOfPlane(plane), " needs ",
                       needed_bytes, " bytes by now and has ", received_[plane]));
    }
    return absl::OkStatus();
  }

  std::unique_ptr<Job> NextDecode() {
    const Stripe& stripe = cutter_.stripe();
    const int64_t elem_bytes = SizeOf(output_dtype_);
    std::span<std::byte> values;
    if (stripe.num_elems() > 0) {
      const std::optional<std::span<std::byte>> memory =
          sink_.Acquire(stripe.begin * elem_bytes, stripe.num_elems() * elem_bytes);
      if (!memory.has_value()) {
        sink_is_full_ = true;
        return nullptr;
      }
      values = *memory;
    }
    std::unique_ptr<DecodeJob> job;
    if (spare_.empty()) {
      job = std::make_unique<DecodeJob>(*this);
    } else {
      job = std::move(spare_.back());
      spare_.pop_back();
    }
    job->stripe = stripe;
    job->values = values;
    job->codes.Clear();
    codes_.Take(CodeBytesOf(stripe), job->codes);
    cutter_.Next();
    return job;
  }

  void Decode(DecodeJob& job) {
    const auto begin = std::chrono::steady_clock::now();
    DecodeStripe(plan_, job.stripe, job.codes.bytes, view_, output_dtype_, crc_, job.values,
                 job.result);
    job.codes.Clear();  // lent memory goes back
    decoding_ns_ += (std::chrono::steady_clock::now() - begin).count();
  }

  absl::Status Commit(DecodeJob& job) {
    digests_[0].Append(job.result.codes);
    values_digest_.Append(job.result.values);
    if (!job.values.empty()) {
      sink_.Commit(job.stripe.begin * SizeOf(output_dtype_), std::ssize(job.values),
                   job.result.crc32c);
    }
    ++stripes_;
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
  std::atomic<int64_t> stripes_ = 0, decoding_ns_ = 0;

  // The dispatcher's, under the lock of jobs_.
  StripeCutter cutter_;        // the next stripe to decode
  StripeCutter check_cutter_;  // the next one whose codes are not all here
  std::vector<int64_t> received_;  // bytes of parameter planes, by plane
  std::vector<BufferPool::Buffer> params_;  // by plane, whole; what has come is not written again
  ParamView view_;                          // of them
  CheckedInput codes_;                      // has the errors of all planes
  std::vector<std::unique_ptr<DecodeJob>> spare_;
  bool sink_is_full_ = false;
  bool failed_ = false;  // the job that says so is dispatched

  const std::shared_ptr<OrderedJobs> jobs_;
};

int64_t DequantizeResidentBytes(const Plan& plan, DType output_dtype) {
  const PackedLayout& layout = plan.resolved.layout;
  const int64_t num_elems = plan.resolved.tensor.shape.num_elems();
  int64_t stripe_elems = std::min(num_elems, kStripeElems);
  if (layout.trailer_bytes > 0) stripe_elems = std::max(stripe_elems, layout.row_elems);
  const int64_t stripe_bytes =
      SaturatingAdd(SaturatingMul(stripe_elems, SizeOf(output_dtype)),
                    SaturatingAdd(SaturatingMul(2, MaxCodeBytes(layout, stripe_elems)),
                                  PieceQueue::kBlockBytes));
  return SaturatingAdd(ParamBytes(layout, layout.groups.num_groups),
                       SaturatingMul(plan.stripes_in_flight, stripe_bytes));
}

DequantizeSession::DequantizeSession(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
DequantizeSession::~DequantizeSession() = default;

absl::StatusOr<std::unique_ptr<DequantizeSession>> DequantizeSession::Create(
    Plan plan, DType output_dtype, PayloadSink& sink, const SessionContext& context,
    std::function<void()> on_event) {
  const TensorDesc& tensor = plan.resolved.tensor;
  if (!IsDequantizeTarget(output_dtype)) {
    return absl::InvalidArgumentError(absl::StrCat("values of dtype ", NameOf(output_dtype),
                                                   " cannot be given; use f64, f32, f16 or bf16"));
  }
  QUANTD_RETURN_IF_ERROR(SizeBytes({tensor.name, output_dtype, tensor.shape}).status());
  QUANTD_ASSIGN_OR_RETURN(MemoryBudget::Reservation reservation,
                          context.budget->Reserve(DequantizeResidentBytes(plan, output_dtype),
                                                  absl::StrCat("tensor \"", tensor.name, "\"")));
  return std::unique_ptr<DequantizeSession>(new DequantizeSession(
      std::make_unique<Impl>(std::move(plan), output_dtype, sink, context, std::move(reservation),
                             std::move(on_event))));
}

void DequantizeSession::Push(int plane, Piece piece) { impl_->Push(plane, std::move(piece)); }
void DequantizeSession::EndInput() { impl_->EndInput(); }
void DequantizeSession::FailInput(const absl::Status& status) { impl_->FailInput(status); }
void DequantizeSession::Ready() { impl_->Ready(); }
absl::StatusOr<DecodingReport> DequantizeSession::Finish() { return impl_->Finish(); }
const Plan& DequantizeSession::plan() const { return impl_->plan(); }
OrderedJobs& DequantizeSession::jobs() { return impl_->jobs(); }
SessionWork DequantizeSession::work() { return impl_->work(); }

}  // namespace quantd
