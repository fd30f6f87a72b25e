/**
 * Looks at what the model said: an answer that is no answer is an error, even when the provider calls it a success.
 *
 * | check       | fires when                                                                  | by default | error             |
 * | ----------- | --------------------------------------------------------------------------- | ---------- | ----------------- |
 * | `empty`     | there is no text, no tool call and no file; reasoning alone is not an answer | `fail`     | `EmptyOutput`     |
 * | `loop`      | the model repeats itself without end, see {@link Loop}                      | `fail`     | `Loop`            |
 * | `truncated` | the answer was cut at its length, and a whole one was asked for             | `notice`   | `TruncatedOutput` |
 * | `refusal`   | a short answer declines the request, see {@link Refusal}                    | `off`      | `Refusal`         |
 * | `schema`    | JSON was asked for, and the text is not JSON that satisfies the schema      | `repair`   | `SchemaMismatch`  |
 * | `judge`     | your own effect says so                                                     | none       | what it says      |
 *
 * **Reactions**
 *
 * `fail` raises an `APIError` with the reason above; what follows (ask again, fall over, neither) is a row of the {@link Decision} table. By
 * that table a refusal is not routed around. `notice` lets the answer pass, marks it `served.degraded: "shorter"` and tells the user with
 * a `Shortened` notice. `off` does not look.
 *
 * **A whole answer asked for**
 *
 * A caller that sets `settings.maxOutputTokens` has asked for that much, and a cut there is what it wanted. All others asked for a whole
 * answer. Half a JSON is of no use to anybody: unless `schema` is off or a notice, it is a `TruncatedOutput` and is not repaired.
 *
 * **Repair**
 *
 * With `schema: "repair"` a whole answer that does not satisfy the schema is shown to the same provider once more, followed by what is
 * wrong with it. When the second answer does not satisfy it either, the error goes up with `shouldRetry: false`, so that the chain falls
 * over instead of asking a third time. It is taken from the attempts of the request, of which each step that could take over keeps one; when
 * none is left nothing is repaired. A Markdown fence around the whole text is taken off without asking anybody.
 *
 * **Streams**
 *
 * A stream is read as it passes, and only what is still undecided is held back: the first words while they could become a refusal (a few
 * characters, as a rule), and a short refusal to its end. A loop ends the stream while it goes on, and the upstream request with it. What
 * can only be known at the end (empty, truncated, schema, judge) fails freely when nothing was passed on before, else it ends the stream
 * with its error in the place of `finish`. A stream is never repaired.
 *
 * **Bounds**
 *
 * Of one stream the guard keeps the window of {@link Loop}, and, only for `schema` and `judge`, the first `maxText` characters.
 *
 * @since 0.1.0
 */
import type * as Response from "effect/ai/Response"
import * as Arr from "effect/Array"
import * as Cause from "effect/Cause"
import * as Clock from "effect/Clock"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import type * as Pull from "effect/Pull"
import * as Stream from "effect/Stream"
import * as Decision from "./Decision.ts"
import { monotonic } from "./internal/monotonic.ts"
import * as Saying from "./internal/saying.ts"
import * as Structured from "./internal/structured.ts"
import { within } from "./internal/within.ts"
import type { LlmRequest } from "./LlmRequest.ts"
import * as LlmResponse from "./LlmResponse.ts"
import * as Loop from "./Loop.ts"
import * as Notice from "./Notice.ts"
import type * as Policy from "./Policy.ts"
import type { Failure } from "./Provider.ts"
import * as ProviderError from "./ProviderError.ts"
import * as ResilienceEvent from "./ResilienceEvent.ts"

/**
 * What happens when a check fires: the typed error, a notice, or nothing because nobody looks.
 *
 * @category models
 * @since 0.1.0
 */
export type Reaction = "fail" | "notice" | "off"

/**
 * An answer as a judge sees it.
 *
 * **Details**
 *
 * `text` is the text without reasoning. `isWhole` is `false` when a stream said more than `maxText`. `toolCalls` counts the tools that
 * the model wants to be called: such an answer is a step on the way, with or without text.
 *
 * @category models
 * @since 0.1.0
 */
export interface Answer {
  readonly text: string
  readonly isWhole: boolean
  readonly toolCalls: number
  readonly finishReason: Response.FinishReason
}

/**
 * What a judge can say. Build it with {@link accepted}, {@link noticed} and {@link rejected}.
 *
 * @category models
 * @since 0.1.0
 */
export type Verdict =
  | { readonly _tag: "Accepted" }
  | { readonly _tag: "Noticed" }
  | { readonly _tag: "Rejected"; readonly reason: Fault; readonly description: string }

/**
 * The reasons for which an answer can be rejected; each is a row of the {@link Decision} table.
 *
 * @category models
 * @since 0.1.0
 */
export type Fault = Extract<
  ProviderError.Reason,
  "ContentPolicy" | "EmptyOutput" | "Loop" | "Refusal" | "SchemaMismatch" | "TruncatedOutput"
>

/**
 * The answer is good.
 *
 * @category constructors
 * @since 0.1.0
 */
export const accepted: Verdict = { _tag: "Accepted" }

/**
 * The answer may pass, and the user is told that it is less than usual.
 *
 * @category constructors
 * @since 0.1.0
 */
export const noticed: Verdict = { _tag: "Noticed" }

/**
 * The answer must not pass. `reason` chooses the row of the {@link Decision} table, `description` is for the log.
 *
 * @category constructors
 * @since 0.1.0
 */
export const rejected = (reason: Fault, description: string): Verdict => ({ _tag: "Rejected", reason, description })

/**
 * Options of the guard; see the table in the module's documentation.
 *
 * **Details**
 *
 * - `loopLimits`: how much repetition is a loop.
 * - `judge` is asked last, about answers that passed all other checks, and for at most `judgeWithin` (2 s). When it fails, dies or takes
 *   longer, `judgeUndecided` stands in for its verdict: {@link accepted} by default, so that a broken judge never fails a call. A judge's
 *   failure is published as `DefectCaught`.
 * - `maxText`: how many characters of a stream are kept for `schema` and `judge`, 262 144 by default. The schema of a longer stream is
 *   not checked.
 *
 * @category models
 * @since 0.1.0
 */
export interface Options<out R = never> {
  readonly empty?: Exclude<Reaction, "notice"> | undefined
  readonly loop?: Reaction | undefined
  readonly loopLimits?: Loop.Options | undefined
  readonly truncated?: Reaction | undefined
  readonly refusal?: Reaction | undefined
  readonly schema?: "repair" | Reaction | undefined
  /** Whatever it fails with, `judgeUndecided` takes its place. */
  readonly judge?: ((answer: Answer, request: LlmRequest) => Effect.Effect<Verdict, unknown, R>) | undefined
  readonly judgeWithin?: Duration.Input | undefined
  readonly judgeUndecided?: Verdict | undefined
  readonly maxText?: number | undefined
}

/**
 * Creates the policy.
 *
 * **Example** (A judge of your own)
 *
 * ```ts import.meta.vitest
 * import { Effect } from "effect"
 * import { LlmRequest, LlmResponse, OutputGuard, Provider } from "@llm-resilience/core"
 *
 * const shouting = Provider.make({
 *   id: "shouting",
 *   model: "m",
 *   generate: () => Effect.succeed({ content: LlmResponse.textContent("HELLO!") })
 * })
 *
 * const guard = OutputGuard.policy({
 *   judge: ({ text }) =>
 *     Effect.succeed(
 *       text === text.toUpperCase()
 *         ? OutputGuard.rejected("SchemaMismatch", "The answer shouts")
 *         : OutputGuard.accepted
 *     )
 * })
 *
 * const program = Effect.scoped(
 *   Effect.gen(function*() {
 *     const guarded = yield* guard(shouting)
 *     const error = yield* Effect.flip(guarded.generate(LlmRequest.make({ prompt: "Hi" })))
 *     return error._tag === "APIError" ? error.description : error._tag
 *   })
 * )
 *
 * await Effect.runPromise(program) // => "The answer shouts"
 * ```
 *
 * @category policies
 * @since 0.1.0
 */
export const policy = <R = never>(options?: Options<R>): Policy.Policy<R> => {
  const checks = checksOf(options)
  const judge = options?.judge
  const judgeUndecided = options?.judgeUndecided ?? accepted
  const judgeWithin = Duration.toMillis(options?.judgeWithin ?? "2 seconds")
  return (self) =>
    Effect.gen(function* () {
      const table = yield* Decision.CurrentTable
      const hub = yield* ResilienceEvent.CurrentHub
      const translate = yield* Notice.translator
      const context = yield* Effect.context<R>()
      const validators = new WeakMap<object, Structured.Validate>()

      const isPlain = (request: LlmRequest): boolean =>
        judge === undefined && (request.responseFormat.type === "text" || checks.schema === "off")

      // Code of the user's runs for `millis` at most, and what goes wrong in it is not a failure of the provider.
      const guarded = <A>(
        effect: Effect.Effect<A, unknown>,
        millis: number,
        otherwise: A,
        request: LlmRequest
      ): Effect.Effect<A> =>
        Clock.clockWith((clock) => {
          const bound = Math.min(millis, request.expiresAt - monotonic(clock))
          const late = () => Effect.fail(new Cause.TimeoutError("The judge did not decide in time"))
          return Effect.catchCause(within(effect, bound, late, 0), (cause) => {
            if (hub.active()) hub.publish({ _tag: "DefectCaught", provider: self.id, cause: Cause.squash(cause) })
            return Effect.succeed(otherwise)
          })
        })

      const validated = (said: Saying.Said, request: LlmRequest): Effect.Effect<Finding> => {
        const format = request.responseFormat
        if (format.type === "text" || checks.schema === "off" || said.toolCalls > 0 || !said.isWhole) {
          return Effect.succeed(accepted)
        }
        const validate = validators.get(format.schema) ?? Structured.validator(format.schema)
        validators.set(format.schema, validate)
        return Effect.map(guarded(validate(said.text), Infinity, undefined, request), (issues): Finding => {
          if (issues === undefined) return accepted
          if (checks.schema === "notice") return noticed
          return said.finishReason === "length" ? Saying.cutShort : { _tag: "Mismatched", issues }
        })
      }

      const judged = (said: Saying.Said, request: LlmRequest): Effect.Effect<Finding> => {
        if (judge === undefined) return Effect.succeed(accepted)
        const { finishReason, isWhole, text, toolCalls } = said
        const asked = Effect.suspend(() => judge({ text, isWhole, toolCalls, finishReason }, request))
        return guarded(Effect.provideContext(asked, context), judgeWithin, judgeUndecided, request)
      }

      const conclude = (said: Saying.Said, request: LlmRequest): Effect.Effect<Finding> => {
        const plain: Finding = Saying.plainly(said, checks, request)
        if (isFinal(plain) || isPlain(request)) return Effect.succeed(plain)
        return Effect.flatMap(validated(said, request), (validation) =>
          isFinal(validation)
            ? Effect.succeed(validation)
            : Effect.map(judged(said, request), (verdict) => {
                if (isFinal(verdict)) return verdict
                return [plain, validation, verdict].some(({ _tag }) => _tag === "Noticed") ? noticed : accepted
              })
        )
      }

      const errorOf = ({ description, reason, shouldRetry }: Saying.Rejected) =>
        new ProviderError.APIError({ provider: self.id, reason, description, shouldRetry })

      const fail = (rejected: Saying.Rejected) => Effect.suspend(() => Effect.fail(errorOf(rejected)))

      const mark = (served: LlmResponse.Served): LlmResponse.Served => ({
        ...served,
        degraded: "shorter",
        notice: { _tag: "Shortened", message: translate({ _tag: "Shortened" }) }
      })

      const settle = (response: LlmResponse.LlmResponse, finding: Finding) => {
        switch (finding._tag) {
          case "Accepted":
            return Effect.succeed(response)
          case "Noticed":
            return Effect.succeed(LlmResponse.withServed(response, mark(response.served)))
          case "Rejected":
            return fail(finding)
          case "Mismatched":
            return fail(mismatch(finding))
        }
      }

      // The answer, or what is inside its Markdown fence when that is what was asked for.
      const examine = (
        response: LlmResponse.LlmResponse,
        request: LlmRequest
      ): Effect.Effect<readonly [LlmResponse.LlmResponse, Finding]> =>
        Effect.flatMap(conclude(Saying.saidOf(response, request, checks), request), (finding) => {
          const bare = finding._tag === "Mismatched" ? Structured.withoutFence(response) : undefined
          if (bare === undefined) return Effect.succeed([response, finding])
          return Effect.map(conclude(Saying.saidOf(bare, request, checks), request), (within) =>
            within._tag === "Mismatched" ? [response, finding] : [bare, within]
          )
        })

      const repaired = (
        request: LlmRequest,
        response: LlmResponse.LlmResponse,
        finding: Mismatched
      ): Effect.Effect<LlmResponse.LlmResponse, Failure> => {
        // A repair is one call more, and each step that could take over keeps one.
        const isSpent = request.allowance.left <= request.stepsLeft
        const again = isSpent ? undefined : Structured.correcting(request, response.text, finding.issues)
        if (again === undefined) return settle(response, finding)
        request.allowance.left--
        const error = errorOf({ ...mismatch(finding), shouldRetry: false })
        if (hub.active()) {
          const facts = { request: request.id, provider: self.id, attempt: 1, delay: Duration.zero }
          hub.publish({ _tag: "Retried", ...facts, error })
        }
        // An error that only the longer prompt can have caused must not hide the one that it was meant to cure.
        const answer = Effect.mapError(self.generate(again), (failure) =>
          failure._tag === "LlmUnavailable" || Decision.of(table, failure).fallOver === "yes" ? failure : error
        )
        return Effect.flatMap(answer, (second) =>
          Effect.flatMap(examine(Structured.plusUsage(second, response.usage), request), ([examined, finding]) =>
            finding._tag === "Mismatched"
              ? fail({ ...mismatch(finding), shouldRetry: false })
              : settle(examined, finding)
          )
        )
      }

      const generate = (request: LlmRequest): Effect.Effect<LlmResponse.LlmResponse, Failure> =>
        Effect.flatMap(self.generate(request), (response) =>
          isPlain(request)
            ? settle(response, Saying.plainly(Saying.saidOf(response, request, checks), checks, request))
            : Effect.flatMap(examine(response, request), ([examined, finding]) =>
                finding._tag === "Mismatched" && checks.schema === "repair"
                  ? repaired(request, examined, finding)
                  : settle(examined, finding)
              )
        )

      const ended = (reading: Saying.Reading, parts: Parts, request: LlmRequest): Effect.Effect<Parts, Failure> =>
        Effect.flatMap(conclude(reading.said(), request), (finding): Effect.Effect<Parts, Failure> => {
          switch (finding._tag) {
            case "Accepted":
              return Effect.succeed(parts)
            case "Noticed": {
              const served = mark(reading.served() ?? LlmResponse.servedBy(self))
              const [before, after] = atFinish(parts.filter((part) => part.type !== "served"))
              return Effect.succeed(Arr.appendAll(Arr.append(before, { type: "served" as const, served }), after))
            }
            case "Rejected":
              return fail(finding)
            case "Mismatched":
              return fail(mismatch(finding))
          }
        })

      const stream = (request: LlmRequest): Stream.Stream<LlmResponse.LlmStreamPart, Failure> =>
        Stream.transformPull(self.stream(request), (pull) =>
          Effect.sync(() => {
            const reading = Saying.reading(checks, request, !isPlain(request))
            let ending: Parts | undefined
            const next: PartsPull = Effect.flatMap(pull, (parts): PartsPull => {
              const step = reading.read(parts)
              switch (step._tag) {
                case "Pass":
                  return Effect.succeed(step.parts)
                case "Hold":
                  return next
                case "Looped":
                  return fail(Saying.looped(step.loop))
                case "Finished": {
                  // What the reader may see anyway does not wait for the judge.
                  const [before, after] = atFinish(step.parts)
                  if (isPlain(request) || !reading.isCommitted() || !isNonEmpty(before) || !isNonEmpty(after)) {
                    return ended(reading, step.parts, request)
                  }
                  ending = after
                  return Effect.succeed(before)
                }
              }
            })
            return Effect.suspend((): PartsPull => {
              if (ending === undefined) return next
              const parts = ending
              ending = undefined
              return ended(reading, parts, request)
            })
          })
        )

      return { ...self, generate, stream }
    })
}

const checksOf = (options: Options<unknown> | undefined): Saying.Checks => {
  const maxText = options?.maxText ?? 262_144
  if (!Number.isInteger(maxText) || maxText < 1) {
    throw new RangeError(`OutputGuard.policy: maxText must be an integer >= 1, got ${maxText}`)
  }
  // Wrong limits are a mistake of the programmer, to be told now and not when the first answer comes.
  Loop.make(options?.loopLimits)
  return {
    empty: options?.empty ?? "fail",
    loop: options?.loop ?? "fail",
    loopLimits: options?.loopLimits,
    truncated: options?.truncated ?? "notice",
    refusal: options?.refusal ?? "off",
    schema: options?.schema ?? "repair",
    maxText
  }
}

/** An answer that does not satisfy its schema may be repaired; everything else that a check finds is final. */
interface Mismatched {
  readonly _tag: "Mismatched"
  readonly issues: ReadonlyArray<string>
}

type Finding = Saying.Finding | Mismatched

const isFinal = (finding: Finding): boolean => finding._tag === "Rejected" || finding._tag === "Mismatched"

const mismatch = ({ issues }: Mismatched): Saying.Rejected => ({
  _tag: "Rejected",
  reason: "SchemaMismatch",
  description: issues.join("; ")
})

type Parts = Arr.NonEmptyReadonlyArray<LlmResponse.LlmStreamPart>

type PartsPull = Pull.Pull<Parts, Failure>

const isNonEmpty: (parts: ReadonlyArray<LlmResponse.LlmStreamPart>) => parts is Parts = Arr.isReadonlyArrayNonEmpty

const atFinish = (
  parts: ReadonlyArray<LlmResponse.LlmStreamPart>
): readonly [ReadonlyArray<LlmResponse.LlmStreamPart>, ReadonlyArray<LlmResponse.LlmStreamPart>] => {
  const end = parts.findIndex((part) => part.type === "finish")
  return end === -1 ? [parts, []] : [parts.slice(0, end), parts.slice(end)]
}
