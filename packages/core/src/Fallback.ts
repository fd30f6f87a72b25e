/**
 * Many providers become one: the first that can answer does, and every step that could not is on the record.
 *
 * **The walk**
 *
 * Steps are asked in order. A step is skipped without a call, with a typed reason, when its circuit is open, it cools down, it cannot
 * serve the request, or too little of the deadline is left. A step that fails hands over when the {@link Decision} table says so; an
 * error that would be the same everywhere (an invalid request, a refusal by a safety system) ends the walk and goes up unchanged.
 * When all is in vain, an {@link LlmUnavailable} tells the whole story.
 *
 * **Deadlines**
 *
 * While another step is left, one step may use at most `share` (two thirds) of what remains of the deadline, so that one silent
 * provider cannot eat the time of all others. For a stream the share ends with the first content.
 *
 * **Streams**
 *
 * The preamble is held back until the first content: up to there a stream fails over like a whole answer, and the caller sees one
 * start. From there on nothing is repeated; a cut or stalled stream ends with a typed error. A `served` part precedes the content.
 *
 * **Never eject everybody**
 *
 * When every step would be skipped, the one that is back soonest is asked anyway, by at most one call at a time and one per
 * `lastResortEvery` (1 s). All others fail at once with the soonest `retryAfter`. A step isolated by hand is never asked.
 *
 * No state is shared between calls, so a recovered first step is used again at once.
 *
 * @since 0.1.0
 */
import type * as Arr from "effect/Array"
import * as Clock from "effect/Clock"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import * as Attempt from "./Attempt.ts"
import * as Decision from "./Decision.ts"
import { monotonic } from "./internal/monotonic.ts"
import { open, opened, type Opened } from "./internal/opening.ts"
import { within } from "./internal/within.ts"
import * as LlmRequest from "./LlmRequest.ts"
import * as LlmResponse from "./LlmResponse.ts"
import * as LlmUnavailable from "./LlmUnavailable.ts"
import * as Notice from "./Notice.ts"
import type { Failure, Provider, Status } from "./Provider.ts"
import * as ProviderError from "./ProviderError.ts"
import * as ResilienceEvent from "./ResilienceEvent.ts"
import * as Timeouts from "./Timeouts.ts"

/**
 * Options of a chain.
 *
 * **Details**
 *
 * - `id`: the chain's own name, `"fallback"` by default; it matters in a chain of chains.
 * - `share`: the part of the remaining deadline that one step may use while others are left, 2/3 by default.
 * - `minimumTime`: a step is skipped when less than this is left of the deadline, 100 ms by default.
 * - `lastResortEvery`: how often a call may try a step that would be skipped when all would be, 1 s by default.
 *
 * @category models
 * @since 0.1.0
 */
export interface Options {
  readonly id?: string | undefined
  readonly share?: number | undefined
  readonly minimumTime?: Duration.Input | undefined
  readonly lastResortEvery?: Duration.Input | undefined
}

/**
 * Joins providers to one that asks them in order.
 *
 * **Example** (Answering although the first provider is down)
 *
 * ```ts import.meta.vitest
 * import { Effect } from "effect"
 * import { Fallback, LlmRequest, LlmResponse, Provider, ProviderError } from "@llm-resilience/core"
 *
 * const down = Provider.make({
 *   id: "down",
 *   model: "large",
 *   generate: () =>
 *     Effect.fail(new ProviderError.APIError({ provider: "down", reason: "Overloaded", description: "529" }))
 * })
 * const up = Provider.make({
 *   id: "up",
 *   model: "small",
 *   generate: () => Effect.succeed({ content: LlmResponse.textContent("Hello!") })
 * })
 *
 * const program = Effect.scoped(
 *   Effect.gen(function*() {
 *     const chain = yield* Fallback.make([down, up])
 *     return yield* chain.generate(LlmRequest.make({ prompt: "Hi" }))
 *   })
 * )
 * const response = await Effect.runPromise(program)
 *
 * response.text // => "Hello!"
 * response.served.provider // => "up"
 * response.served.attempts.map((attempt) => attempt.provider) // => ["down"]
 * response.served.notice?._tag // => "BackupService"
 * ```
 *
 * @category constructors
 * @since 0.1.0
 */
export const make: (
  providers: Arr.NonEmptyReadonlyArray<Provider>,
  options?: Options
) => Effect.Effect<Provider, never, Scope.Scope> = Effect.fnUntraced(function* (providers, options) {
  const share = options?.share ?? 2 / 3
  const minimumTime = Duration.toMillis(options?.minimumTime ?? "100 millis")
  const lastResortEvery = Duration.toMillis(options?.lastResortEvery ?? "1 second")
  if (!(share > 0 && share <= 1)) throw new RangeError(`Fallback.make: share must be in (0, 1], got ${share}`)
  const names = providers.map((provider) => provider.id)
  const twice = names.find((name, index) => names.indexOf(name) !== index)
  if (twice !== undefined) throw new RangeError(`Fallback.make: two steps have the id "${twice}"; ids must be unique`)

  const table = yield* Decision.CurrentTable
  const hub = yield* ResilienceEvent.CurrentHub
  const translate = yield* Notice.Translate
  const steps = yield* Effect.forEach(providers, (provider) =>
    provider.keepsDeadline ? Effect.succeed(provider) : Timeouts.policy({ attempt: Infinity, idle: Infinity })(provider)
  )
  const first = steps[0]
  const last = steps.length - 1
  const lastResort = { busy: false, nextAt: -Infinity }

  // One walk along the steps, for whole and streamed answers alike: `ask` calls a step, `answer` tags what it gave.
  const walk = <A, B>(
    clock: Clock.Clock,
    request: LlmRequest.LlmRequest,
    ask: (step: Provider, request: LlmRequest.LlmRequest, share: number) => Effect.Effect<A, Failure>,
    answer: (result: A, step: Provider, attempts: ReadonlyArray<Attempt.Attempt>) => B
  ): Effect.Effect<B, Failure> => {
    const attempts: Array<Attempt.Attempt> = []
    let tooLongFor: number | undefined
    let previous: Provider | undefined

    const from = (index: number): Effect.Effect<B, Failure> => {
      const step = steps[index]
      if (step === undefined) return exhausted
      const incapable = lacks(step, request, tooLongFor)
      const remaining = request.expiresAt - monotonic(clock)
      if (incapable !== undefined) return skip(index, step, { _tag: "NotCapable", requires: incapable })
      if (remaining < minimumTime && index > 0) {
        return skip(index, step, { _tag: "NoTimeLeft", remaining: Duration.millis(Math.max(0, remaining)) })
      }
      return Effect.flatMap(step.availability(request), (reason) =>
        reason === undefined ? call(index, step, request) : skip(index, step, reason)
      )
    }

    const skip = (index: number, step: Provider, reason: Attempt.SkipReason): Effect.Effect<B, Failure> => {
      attempts.push({ _tag: "Skipped", provider: step.id, model: step.model, reason })
      if (hub.active()) hub.publish({ _tag: "StepSkipped", request: request.id, provider: step.id, reason })
      return from(index + 1)
    }

    const call = (index: number, step: Provider, request: LlmRequest.LlmRequest): Effect.Effect<B, Failure> =>
      Effect.suspend(() => {
        const startedAt = monotonic(clock)
        const remaining = request.expiresAt - startedAt
        const stepsLeft = request.lastResort ? 0 : last - index
        if (hub.active()) {
          if (previous !== undefined)
            hub.publish({ _tag: "FellBack", request: request.id, from: previous.id, to: step.id })
          hub.publish({ _tag: "AttemptStarted", request: request.id, provider: step.id, model: step.model })
        }
        previous = step
        const asked = ask(step, { ...request, stepsLeft }, stepsLeft === 0 ? remaining : remaining * share)
        return Effect.matchEffect(asked, {
          onSuccess: (result) => {
            if (hub.active()) {
              const duration = Duration.millis(monotonic(clock) - startedAt)
              hub.publish({ _tag: "AttemptSucceeded", request: request.id, provider: step.id, duration })
            }
            return Effect.succeed(answer(result, step, attempts))
          },
          onFailure: (error) => failed(index, step, error, monotonic(clock) - startedAt)
        })
      })

    const failed = (index: number, step: Provider, error: Failure, millis: number): Effect.Effect<B, Failure> => {
      if (error._tag === "LlmUnavailable") {
        attempts.push(...error.attempts)
        return from(index + 1)
      }
      const decision = Decision.of(table, error)
      const attempt = {
        _tag: "Failed" as const,
        provider: step.id,
        model: step.model,
        error,
        duration: Duration.millis(millis)
      }
      attempts.push(attempt)
      if (hub.active()) {
        hub.publish({ _tag: "AttemptFailed", request: request.id, provider: step.id, attempt, decision })
      }
      if (decision.fallOver === "no") return Effect.fail(error)
      if (decision.fallOver === "largerWindow")
        tooLongFor = Math.max(tooLongFor ?? 0, step.capabilities.contextWindow ?? 0)
      return from(index + 1)
    }

    const exhausted: Effect.Effect<B, Failure> = Effect.suspend(() => {
      const now = monotonic(clock)
      const everyoneRests = attempts.every((attempt) => attempt._tag === "Skipped")
      if (!everyoneRests || lastResort.busy || now < lastResort.nextAt) return unavailable
      const urgent = { ...request, lastResort: true }
      return Effect.flatMap(
        Effect.filter(soonestFirst(attempts), (step) =>
          Effect.map(step.availability(urgent), (reason) => reason === undefined)
        ),
        ([step]) => {
          if (step === undefined || lastResort.busy) return unavailable
          lastResort.busy = true
          lastResort.nextAt = now + lastResortEvery
          return Effect.onExit(call(last, step, urgent), () => {
            lastResort.busy = false
            return Effect.void
          })
        }
      )
    })

    const unavailable: Effect.Effect<never, Failure> = Effect.suspend(() =>
      Effect.fail(LlmUnavailable.make(attempts, { translate }))
    )

    return from(0)
  }

  const soonestFirst = (attempts: ReadonlyArray<Attempt.Attempt>): ReadonlyArray<Provider> =>
    attempts
      .flatMap((attempt) => {
        const retryAfter = attempt._tag === "Skipped" ? Attempt.skipRetryAfter(attempt.reason) : undefined
        const step = steps.find((step) => step.id === attempt.provider)
        return retryAfter === undefined || step === undefined ? [] : [{ step, wait: Duration.toMillis(retryAfter) }]
      })
      .toSorted((left, right) => left.wait - right.wait)
      .map(({ step }) => step)

  const serve = (
    served: LlmResponse.Served,
    step: Provider,
    attempts: ReadonlyArray<Attempt.Attempt>
  ): LlmResponse.Served => {
    if (attempts.length === 0) return served
    const facts = { _tag: "BackupService" as const, provider: served.provider }
    return {
      ...served,
      attempts: [...attempts, ...served.attempts],
      ...(step === first ? {} : { notice: { ...facts, message: translate(facts) } })
    }
  }

  const expired = (step: Provider, millis: number) => () =>
    Effect.fail(
      new ProviderError.Timeout({ provider: step.id, kind: "deadline", after: Duration.millis(Math.max(0, millis)) })
    )

  const chain: Provider = {
    id: options?.id ?? "fallback",
    model: steps.map((step) => step.model).join(" | "),
    capabilities: {},
    keepsDeadline: true,
    availability: () => Effect.undefined,
    generate: (asked) =>
      Clock.clockWith((clock) => {
        const request = LlmRequest.start(asked, monotonic(clock))
        return walk(
          clock,
          request,
          (step, request, share) =>
            share === Infinity
              ? step.generate(request)
              : within(
                  step.generate({ ...request, expiresAt: monotonic(clock) + share }),
                  share,
                  expired(step, share),
                  "hard"
                ),
          (response, step, attempts) =>
            attempts.length === 0 ? response : LlmResponse.withServed(response, serve(response.served, step, attempts))
        )
      }),
    stream: (asked) =>
      opened((scope) =>
        Clock.clockWith((clock) => {
          const startedAt = monotonic(clock)
          const request = LlmRequest.start(asked, startedAt)
          return walk(
            clock,
            request,
            (step, request, share) =>
              within(open(step.id, step.stream(request), scope), share, expired(step, share), "hard"),
            (opening, step, attempts): Opened => {
              if (hub.active()) {
                const after = Duration.millis(monotonic(clock) - startedAt)
                hub.publish({ _tag: "Committed", request: request.id, provider: step.id, after })
              }
              const announced = opening.head.find((part) => part.type === "served")
              const served = serve(announced?.served ?? servedBy(step), step, attempts)
              const rest = opening.head.filter((part) => part.type !== "served")
              return { ...opening, head: [{ type: "served", served }, ...rest] }
            }
          )
        })
      ),
    status: Effect.map(Effect.forEach(steps, statusOf), (all) => all.flat()),
    circuits: new Map(steps.flatMap((step) => [...step.circuits]))
  }
  return chain
})

const servedBy = (step: Provider): LlmResponse.Served => ({
  provider: step.id,
  model: step.model,
  from: "provider",
  attempts: []
})

const anyRequest = LlmRequest.make({ prompt: "" })

const statusOf = (step: Provider): Effect.Effect<ReadonlyArray<Status>> =>
  Effect.zipWith(step.status, step.availability(anyRequest), (statuses, unavailable) =>
    unavailable === undefined ? statuses : statuses.map((status) => ({ ...status, unavailable }))
  )

// What a request needs and a step is known not to have. Unknown capabilities never exclude a step.
const lacks = (step: Provider, request: LlmRequest.LlmRequest, tooLongFor: number | undefined): string | undefined => {
  const { contextWindow, files, images, jsonSchema, tools } = step.capabilities
  if (tooLongFor !== undefined && contextWindow !== undefined && contextWindow <= tooLongFor) {
    return `a context window of more than ${tooLongFor} tokens`
  }
  if (tools === false && request.tools.length > 0) return "tools"
  if (jsonSchema === false && request.responseFormat.type === "json") return "JSON schema output"
  if (images === false && hasFile(request, (mediaType) => mediaType.startsWith("image/"))) return "images"
  if (files === false && hasFile(request, (mediaType) => !mediaType.startsWith("image/"))) return "files"
  return undefined
}

const hasFile = (request: LlmRequest.LlmRequest, matches: (mediaType: string) => boolean): boolean =>
  request.prompt.content.some(
    (message) =>
      typeof message.content !== "string" &&
      message.content.some((part) => part.type === "file" && matches(part.mediaType))
  )
