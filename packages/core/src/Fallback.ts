/**
 * Many providers become one: the first that can answer does, and every step that could not is on the record.
 *
 * **The walk**
 *
 * Steps are asked by rising priority, and among equal ones in the order of {@link Routing}. A step is skipped without a call, with a typed
 * reason, when its circuit is open, it cools down, it cannot serve the request, or too little of the deadline or of the attempts is left. A step that fails hands over when the {@link Decision} table says so; an
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
 * start, preceded by a `served` part. From there on nothing is silently repeated. When a stream breaks after its first content, `recovery`
 * says what happens, by what the next step can do:
 *
 * - `continue`: a model that accepts a prefill goes on where the text stops; the seam has no repeated and no missing character.
 * - `restart`: the next step answers anew, and its text is held back as long as it repeats what was emitted. The first difference ends
 *   the attempt, so two answers are never mixed.
 * - `fail`: the stream ends with the error of the break.
 *
 * Each falls through to the next one, and over the steps that are left. If none succeeds, the error of the break is the one that is
 * reported. What cannot be compared (a tool call, a file) is never recovered, so no tool call is emitted twice. A recovered answer has a
 * second `served` part that names all `contributors`.
 *
 * **Hedging**
 *
 * With `hedge`, a step that takes unusually long is not waited for: the next one is asked beside it, and the first content wins. Who was given up
 * is on the record as `Superseded`. Every call beyond the first of a request is taken from its `attempts`.
 *
 * **Never eject everybody**
 *
 * Steps that were merely spared (held for unhealthy by a check, or in slow start) are asked before the chain gives up. When every step would
 * be skipped, the one that is back soonest is asked anyway, by at most one call at a time and one per
 * `lastResortEvery` (1 s). All others fail at once with the soonest `retryAfter`. A step isolated by hand is never asked.
 *
 * No call remembers how the last one went, so a recovered first step is used again as soon as its own breaker lets it.
 *
 * @since 0.1.0
 */
import type * as Arr from "effect/Array"
import * as Clock from "effect/Clock"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import type * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import * as Attempt from "./Attempt.ts"
import * as Decision from "./Decision.ts"
import { anyRequest } from "./internal/anyRequest.ts"
import type { Ask, Chain } from "./internal/chain.ts"
import { monotonic } from "./internal/monotonic.ts"
import { announced, open, type Opened } from "./internal/opening.ts"
import { type Current, recovering } from "./internal/recovering.ts"
import { takeover } from "./internal/takeover.ts"
import { type Manner, walking } from "./internal/walk.ts"
import * as Hedge from "./Hedge.ts"
import * as LlmRequest from "./LlmRequest.ts"
import * as LlmResponse from "./LlmResponse.ts"
import * as LlmUnavailable from "./LlmUnavailable.ts"
import * as Notice from "./Notice.ts"
import type { Provider, Status } from "./Provider.ts"
import * as ResilienceEvent from "./ResilienceEvent.ts"
import * as Routing from "./Routing.ts"
import * as Timeouts from "./Timeouts.ts"
import * as Vitals from "./Vitals.ts"

/**
 * A provider with its place in the chain.
 *
 * **Details**
 *
 * Steps are asked by rising `priority`; without one, a step keeps its place in the list (the first has priority 0, the next 1, …). Steps of
 * equal priority share the load by their `weight`, 1 by default, or as {@link Routing} says.
 *
 * @category models
 * @since 0.1.0
 */
export interface Step {
  readonly provider: Provider
  readonly priority?: number | undefined
  readonly weight?: number | undefined
}

/**
 * Options of a chain.
 *
 * **Details**
 *
 * - `id`: the chain's own name, `"fallback"` by default; it matters in a chain of chains.
 * - `share`: the part of the remaining deadline that one step may use while others are left, 2/3 by default.
 * - `minimumTime`: a step is skipped when less than this is left of the deadline, 100 ms by default.
 * - `lastResortEvery`: how often a call may try a step that would be skipped when all would be, 1 s by default.
 * - `recovery`: what happens when a stream breaks after its first content, `continue` by default.
 * - `hedge`: when the next step is asked beside one that takes long; never by default.
 * - `routing`: the order among steps of equal priority.
 *
 * @category models
 * @since 0.1.0
 */
export interface Options {
  readonly id?: string | undefined
  readonly share?: number | undefined
  readonly minimumTime?: Duration.Input | undefined
  readonly lastResortEvery?: Duration.Input | undefined
  readonly recovery?: "continue" | "restart" | "fail" | undefined
  readonly hedge?: Hedge.Options | undefined
  readonly routing?: Routing.Options | undefined
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
  providers: Arr.NonEmptyReadonlyArray<Provider | Step>,
  options?: Options
) => Effect.Effect<Provider, never, Scope.Scope> = Effect.fnUntraced(function* (providers, options) {
  const id = options?.id ?? "fallback"
  const share = options?.share ?? 2 / 3
  const minimumTime = Duration.toMillis(options?.minimumTime ?? "100 millis")
  const lastResortEvery = Duration.toMillis(options?.lastResortEvery ?? "1 second")
  if (!(share > 0 && share <= 1)) throw new RangeError(`Fallback.make: share must be in (0, 1], got ${share}`)
  if (providers.length === 0) throw new RangeError("Fallback.make: a chain has at least one step, got none")
  const placed = providers.map((step, index) => ("provider" in step ? step : { provider: step, priority: index }))
  const names = placed.map(({ provider }) => provider.id)
  const twice = names.find((name, index) => names.indexOf(name) !== index)
  if (twice !== undefined)
    throw new RangeError(`Fallback.make: two steps have the id "${twice}"; give each provider an id of its own`)

  const table = yield* Decision.CurrentTable
  const hub = yield* ResilienceEvent.CurrentHub
  const translate = yield* Notice.translator
  const members = yield* Effect.forEach(placed, ({ priority, provider, weight }, index) =>
    Effect.map(Timeouts.deadline(provider), (provider): Routing.Member => ({
      provider,
      priority: priority ?? index,
      weight: weight ?? 1
    }))
  )
  const best = Math.min(...members.map(({ priority }) => priority))
  const usual = new Set(members.flatMap(({ priority, provider }) => (priority === best ? [provider.id] : [])))
  // Whose calls nobody counts, a chain within this one, has equals that it must be compared with.
  const comparable = yield* Effect.forEach(members, (member) =>
    member.provider.vitals !== undefined ||
    members.every((other) => other === member || other.priority !== member.priority)
      ? Effect.succeed(member)
      : Effect.map(Vitals.make(), (vitals) => ({ ...member, provider: vitals.guard(member.provider) }))
  )
  const steps = comparable.toSorted((left, right) => left.priority - right.priority).map(({ provider }) => provider)
  const route = Routing.make(comparable, options?.routing)
  const chain: Chain = {
    steps,
    // A strategy or a key of the user that throws costs the order, not the answer.
    ordered: (request, method, now) => {
      try {
        return route(request, method, now)
      } catch (cause) {
        if (hub.active()) hub.publish({ _tag: "DefectCaught", provider: id, cause })
        return steps
      }
    },
    share,
    minimumTime,
    lastResortEvery,
    hedge: options?.hedge === undefined ? undefined : Hedge.settingsOf(options.hedge),
    table,
    hub,
    unavailable: (attempts) => LlmUnavailable.make(attempts, { translate })
  }
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
      // That a backup answered says more than that it took long.
      ...(usual.has(step.id) || (served.notice !== undefined && served.notice._tag !== "Slower")
        ? {}
        : { notice: { ...facts, message: translate(facts) } })
    }
  }

  const walk = walking(chain)
  const whole: Manner<LlmResponse.LlmResponse, LlmResponse.LlmResponse> = {
    method: "generate",
    ask: (step, request, stepsLeft, until) => step.generate({ ...request, stepsLeft, expiresAt: until }),
    answer: (response, step, attempts) =>
      attempts.length === 0 ? response : LlmResponse.withServed(response, serve(response.served, step, attempts)),
    discard: () => Effect.void
  }
  const takeOver = takeover(chain, options?.recovery ?? "continue", serve)

  const self: Provider = {
    id,
    model: steps.map((step) => step.model).join(" | "),
    capabilities: {},
    keepsDeadline: true,
    availability: (request, now) => {
      let soonest: Attempt.SkipReason | undefined
      for (const step of steps) {
        const reason = step.availability(request, now)
        if (reason === undefined) return undefined
        soonest = sooner(soonest, reason)
      }
      return soonest
    },
    generate: (asked) =>
      Effect.withFiber((fiber) => {
        const clock = fiber.getRef(Clock.Clock)
        const now = monotonic(clock)
        const request = LlmRequest.allow(LlmRequest.start(asked, now))
        return walk(clock, request, whole, now)
      }),
    stream: (asked) =>
      Stream.unwrap(
        Effect.withFiber((fiber) =>
          Effect.flatMap(Effect.scope, (scope) => {
            const clock = fiber.getRef(Clock.Clock)
            const enteredAt = monotonic(clock)
            const request = LlmRequest.allow(LlmRequest.start(asked, enteredAt))
            const commit = (
              opening: Opened,
              step: Provider,
              attempts: ReadonlyArray<Attempt.Attempt>,
              startedAt: number
            ): Current => {
              if (hub.active()) {
                const after = Duration.millis(monotonic(clock) - enteredAt)
                hub.publish({ _tag: "Committed", request: request.id, provider: step.id, after })
              }
              const amend = (served: LlmResponse.Served) => serve(served, step, attempts)
              const served = amend(announced(opening) ?? LlmResponse.servedBy(step))
              const rest = opening.head.filter((part) => part.type !== "served")
              return {
                step,
                startedAt,
                served,
                amend,
                joint: undefined,
                spokeFrom: 0,
                opening: { ...opening, head: [{ type: "served", served }, ...rest] }
              }
            }
            const openIn =
              (scope: Scope.Scope): Ask<Opened> =>
              (step, request, stepsLeft, until) =>
                open(step.id, step.stream({ ...request, stepsLeft, commitBy: until }), scope)
            const streamed: Manner<Opened, Current> = {
              method: "stream",
              ask: openIn(scope),
              answer: commit,
              discard: ({ close }) => close(Exit.void)
            }
            return Effect.map(walk(clock, request, streamed, enteredAt), (first) =>
              Stream.fromPull(Effect.succeed(recovering(first, takeOver(clock, request, scope, openIn))))
            )
          })
        )
      ),
    status: Clock.clockWith((clock) =>
      Effect.map(
        Effect.forEach(steps, (step) => statusOf(step, clock)),
        (all) => all.flat()
      )
    ),
    circuits: new Map(steps.flatMap((step) => [...step.circuits]))
  }
  return self
})

const sooner = (left: Attempt.SkipReason | undefined, right: Attempt.SkipReason): Attempt.SkipReason => {
  const [wait, other] = [left, right].map((reason) => reason && Attempt.skipRetryAfter(reason))
  if (left === undefined || wait === undefined) return right
  return other !== undefined && Duration.isLessThan(other, wait) ? right : left
}

const statusOf = (step: Provider, clock: Clock.Clock): Effect.Effect<ReadonlyArray<Status>> =>
  Effect.map(step.status, (statuses) => {
    const unavailable = step.availability(anyRequest, monotonic(clock))
    return unavailable === undefined ? statuses : statuses.map((status) => ({ ...status, unavailable }))
  })
