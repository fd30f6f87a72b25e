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
import * as Prompt from "effect/ai/Prompt"
import type * as Arr from "effect/Array"
import * as Cause from "effect/Cause"
import * as Clock from "effect/Clock"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import type * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import * as Attempt from "./Attempt.ts"
import * as Decision from "./Decision.ts"
import { monotonic } from "./internal/monotonic.ts"
import { open, type Opened } from "./internal/opening.ts"
import { exceeds } from "./internal/promptSize.ts"
import { racing } from "./internal/racing.ts"
import { within } from "./internal/within.ts"
import { type Break, type Current, join, recovering } from "./internal/recovering.ts"
import * as Recovery from "./internal/recovery.ts"
import * as Seam from "./internal/seam.ts"
import * as Hedge from "./Hedge.ts"
import * as LlmRequest from "./LlmRequest.ts"
import * as LlmResponse from "./LlmResponse.ts"
import * as LlmUnavailable from "./LlmUnavailable.ts"
import * as Notice from "./Notice.ts"
import type { Failure, Provider, Status } from "./Provider.ts"
import * as ProviderError from "./ProviderError.ts"
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
  const share = options?.share ?? 2 / 3
  const minimumTime = Duration.toMillis(options?.minimumTime ?? "100 millis")
  const lastResortEvery = Duration.toMillis(options?.lastResortEvery ?? "1 second")
  if (!(share > 0 && share <= 1)) throw new RangeError(`Fallback.make: share must be in (0, 1], got ${share}`)
  if (providers.length === 0) throw new RangeError("Fallback.make: a chain has at least one step, got none")
  const placed = providers.map((step, index) => ("provider" in step ? step : { provider: step, priority: index }))
  const names = placed.map(({ provider }) => provider.id)
  const twice = names.find((name, index) => names.indexOf(name) !== index)
  if (twice !== undefined) throw new RangeError(`Fallback.make: two steps have the id "${twice}"; ids must be unique`)

  const table = yield* Decision.CurrentTable
  const hub = yield* ResilienceEvent.CurrentHub
  const translate = yield* Notice.Translate
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
  const ordered = Routing.make(comparable, options?.routing)
  const steps = comparable.toSorted((left, right) => left.priority - right.priority).map(({ provider }) => provider)
  const hedge = options?.hedge === undefined ? undefined : Hedge.settingsOf(options.hedge)
  const recovery = options?.recovery ?? "continue"
  const lastResort = { busy: false, nextAt: -Infinity }

  const recordSkip = (
    attempts: Array<Attempt.Attempt>,
    request: LlmRequest.LlmRequest,
    step: Provider,
    reason: Attempt.SkipReason
  ): void => {
    attempts.push({ _tag: "Skipped", provider: step.id, model: step.model, reason })
    if (hub.active()) hub.publish({ _tag: "StepSkipped", request: request.id, provider: step.id, reason })
  }

  // Whoever was called and refused has an end, too. A chain within this one tells why by its own steps.
  const publishRefusal = (
    request: LlmRequest.LlmRequest,
    step: Provider,
    error: LlmUnavailable.LlmUnavailable
  ): void => {
    if (!hub.active()) return
    const last = error.attempts.at(-1)
    const reason: Attempt.SkipReason =
      last?._tag === "Skipped" && last.provider === step.id ? last.reason : { _tag: "Exhausted" }
    hub.publish({ _tag: "StepSkipped", request: request.id, provider: step.id, reason })
  }

  const recordFailure = (
    attempts: Array<Attempt.Attempt>,
    request: LlmRequest.LlmRequest,
    step: Provider,
    error: ProviderError.ProviderError,
    millis: number
  ): Decision.Decision => {
    const decision = Decision.of(table, error)
    const attempt = failedAttempt(step, error, millis)
    attempts.push(attempt)
    if (hub.active()) {
      hub.publish({ _tag: "AttemptFailed", request: request.id, provider: step.id, attempt, decision })
    }
    return decision
  }

  // One walk along the steps, for whole and streamed answers alike: `ask` calls a step, `answer` tags what it gave, `discard` gives back what
  // came too late.
  const walk = <A, B>(
    clock: Clock.Clock,
    request: LlmRequest.LlmRequest,
    method: Vitals.Method,
    ask: Ask<A>,
    answer: (result: A, step: Provider, attempts: ReadonlyArray<Attempt.Attempt>, startedAt: number) => B,
    discard: (result: A) => Effect.Effect<void>
  ): Effect.Effect<B, Failure> => {
    const attempts: Array<Attempt.Attempt> = []
    const underway = new Map<Provider, number>()
    let tooLongFor: number | undefined
    // The first call of a walk is paid for by whoever asked the chain, that of a hedge when the hedge is sent.
    let paid = 1
    let front = -1
    let hedges = 0
    let insisted = false
    let answered = false

    const from = (list: Steps, index: number, request: LlmRequest.LlmRequest): Effect.Effect<B, Failure> => {
      const step = list[index]
      if (step === undefined) return exhausted(list, request)
      const skip = (reason: Attempt.SkipReason): Effect.Effect<B, Failure> => {
        recordSkip(attempts, request, step, reason)
        return from(list, index + 1, request)
      }
      const incapable = lacks(step, request, tooLongFor)
      const now = monotonic(clock)
      const remaining = request.expiresAt - now
      if (incapable !== undefined) return skip({ _tag: "NotCapable", requires: incapable })
      if (remaining <= 0 || (remaining < minimumTime && attempts.length > 0)) {
        return skip({ _tag: "NoTimeLeft", remaining: Duration.millis(Math.max(0, remaining)) })
      }
      if (paid === 0 && request.allowance.left <= 0) return skip({ _tag: "NoAttemptsLeft" })
      const reason = step.availability(request, now)
      return reason === undefined
        ? call(list, index, step, request, takers(list, index + 1, request, tooLongFor, now), now)
        : skip(reason)
    }

    const call = (
      list: Steps,
      index: number,
      step: Provider,
      request: LlmRequest.LlmRequest,
      stepsLeft: number,
      startedAt: number
    ): Effect.Effect<B, Failure> => {
      const remaining = Math.min(request.expiresAt, request.commitBy) - startedAt
      if (hub.active()) {
        const before = attempts.at(-1)
        if (before !== undefined) {
          hub.publish({ _tag: "FellBack", request: request.id, from: before.provider, to: step.id, because: before })
        }
        hub.publish({ _tag: "AttemptStarted", request: request.id, provider: step.id, model: step.model })
      }
      if (paid > 0) paid--
      else request.allowance.left--
      front = Math.max(front, index)
      underway.set(step, startedAt)
      const until = remaining === Infinity ? Infinity : startedAt + (stepsLeft === 0 ? remaining : remaining * share)
      const { grant } = request
      const wasSent = grant?.sent === true
      // Nobody says when a step without a budget has been asked.
      if (grant !== undefined && step.budget === undefined) grant.sent = true
      const matched = Effect.matchCauseEffect(
        ask(step, { ...request, stepsLeft: request.stepsLeft + stepsLeft }, until),
        {
          onSuccess: (result) => {
            // Two answers at the same moment: the first is with the caller already.
            if (answered) return Effect.andThen(discard(result), Effect.never)
            answered = true
            underway.delete(step)
            const now = monotonic(clock)
            if (hub.active()) {
              const duration = Duration.millis(now - startedAt)
              hub.publish({ _tag: "AttemptSucceeded", request: request.id, provider: step.id, duration })
            }
            supersede(now)
            giveBack(0)
            return Effect.succeed(answer(result, step, attempts, startedAt))
          },
          onFailure: (cause) => {
            underway.delete(step)
            const error = failureOf(step, cause)
            if (grant !== undefined && error._tag === "LlmUnavailable" && LlmUnavailable.wasRefused(error)) {
              grant.sent = wasSent
            }
            return failed(list, index, step, request, error, monotonic(clock) - startedAt)
          }
        }
      )
      const asked =
        grant === undefined || grant.sent
          ? matched
          : Effect.onInterrupt(matched, () =>
              Effect.sync(() => {
                if (!grant.sent) request.allowance.left++
              })
            )
      const delay =
        hedge === undefined || stepsLeft === 0 || request.lastResort ? undefined : Hedge.delayOf(hedge, step, method)
      return delay === undefined || until - startedAt <= delay
        ? asked
        : racing(asked, delay, alongside(list, index, step, request, delay), isFinal)
    }

    // Who waits for a slow step asks the next one that would take the request, if there is one and if it can be afforded.
    const alongside =
      (list: Steps, index: number, step: Provider, request: LlmRequest.LlmRequest, delay: number) =>
      (now: number): Effect.Effect<B, Failure> | undefined => {
        if (!underway.has(step) || answered || hedges >= (hedge?.hedges ?? 0)) return undefined
        const next = nextTaker(list, index + 1, request, tooLongFor, now)
        const sent = next === undefined ? undefined : Hedge.afford(step, request, 0, now)
        if (sent === undefined || next === undefined) return undefined
        hedges++
        paid++
        if (hub.active()) {
          const after = Duration.millis(delay)
          hub.publish({ _tag: "Hedged", request: request.id, provider: step.id, to: next.id, after })
        }
        const leg = from(list, index + 1, sent)
        const { grant } = sent
        if (grant === undefined) return leg
        // A hedge that everybody refused, or that waited in a line until it was over, was none.
        return Effect.onExit(leg, (exit) => {
          if (!grant.sent) step.budget?.restore(grant)
          if (Exit.hasInterrupts(exit)) giveBack(0)
          return Effect.void
        })
      }

    // What was taken for calls that nobody was asked for. Whoever asked a chain in which nobody was called takes back what that cost by itself.
    const giveBack = (kept: number): void => {
      request.allowance.left += paid - kept
      paid = kept
    }

    const supersede = (now: number): void => {
      for (const [step, startedAt] of underway) {
        const duration = Duration.millis(now - startedAt)
        attempts.push({ _tag: "Superseded", provider: step.id, model: step.model, duration })
        if (hub.active()) {
          hub.publish({ _tag: "AttemptSuperseded", request: request.id, provider: step.id, duration })
        }
      }
      underway.clear()
    }

    const failed = (
      list: Steps,
      index: number,
      step: Provider,
      request: LlmRequest.LlmRequest,
      error: Failure,
      millis: number
    ): Effect.Effect<B, Failure> => {
      if (error._tag === "LlmUnavailable") {
        attempts.push(...error.attempts)
        publishRefusal(request, step, error)
        // Nobody was called, so the next call is not one more.
        if (LlmUnavailable.wasRefused(error)) paid++
      } else {
        const decision = recordFailure(attempts, request, step, error, millis)
        if (decision.fallOver === "no") {
          supersede(monotonic(clock))
          giveBack(0)
          return Effect.fail(error)
        }
        if (decision.fallOver === "largerWindow")
          tooLongFor = Math.max(tooLongFor ?? 0, step.capabilities.contextWindow ?? 0)
      }
      // Whoever was asked beside this step is further down the chain already.
      return index < front ? exhausted(list, request) : from(list, index + 1, request)
    }

    const exhausted = (list: Steps, request: LlmRequest.LlmRequest): Effect.Effect<B, Failure> =>
      Effect.suspend(() => {
        if (underway.size > 0) return unavailable
        const spared = insisted ? [] : list.filter((step) => attempts.some((attempt) => wasSpared(attempt, step)))
        if (spared.length > 0) {
          insisted = true
          front = -1
          return from(spared, 0, { ...request, insists: true })
        }
        const now = monotonic(clock)
        const everyoneRests = attempts.every((attempt) => attempt._tag === "Skipped")
        // In a chain within a chain, somebody outside may still be well.
        if (request.stepsLeft > 0 || !everyoneRests || lastResort.busy || now < lastResort.nextAt) return unavailable
        if (paid === 0 && request.allowance.left <= 0) return unavailable
        const urgent = { ...request, lastResort: true }
        const step = soonestFirst(attempts).find((step) => step.availability(urgent, now) === undefined)
        if (step === undefined) return unavailable
        front = -1
        // From the flag on, whatever ends this call takes it back.
        return Effect.uninterruptibleMask((restore) => {
          if (lastResort.busy) return unavailable
          lastResort.busy = true
          lastResort.nextAt = now + lastResortEvery
          return Effect.onExit(restore(call([step], 0, step, urgent, 0, now)), () => {
            lastResort.busy = false
            return Effect.void
          })
        })
      })

    const unavailable: Effect.Effect<never, Failure> = Effect.suspend(() => {
      const error = LlmUnavailable.make(attempts, { translate })
      if (underway.size === 0) giveBack(LlmUnavailable.wasRefused(error) ? 1 : 0)
      return Effect.fail(error)
    })

    // The last resort of a chain around this one: here, too, only the step that is back soonest is asked.
    const calm = request.lastResort ? { ...request, lastResort: false } : request
    return from(ordered(request, method, monotonic(clock)), 0, calm)
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
      // That a backup answered says more than that it took long.
      ...(usual.has(step.id) || (served.notice !== undefined && served.notice._tag !== "Slower")
        ? {}
        : { notice: { ...facts, message: translate(facts) } })
    }
  }

  // A text that loops or has the wrong structure is spoiled: nobody can put it right by going on with it.
  const recoverable = (error: Failure): error is ProviderError.ProviderError =>
    recovery !== "fail" &&
    error._tag !== "LlmUnavailable" &&
    !(error._tag === "Timeout" && error.kind === "deadline") &&
    !(error._tag === "APIError" && (error.reason === "Loop" || error.reason === "SchemaMismatch")) &&
    Decision.of(table, error).fallOver === "yes"

  // Looks for somebody to finish a broken answer: the steps after the broken one, those before it, and last that one itself.
  const resume = (
    clock: Clock.Clock,
    request: LlmRequest.LlmRequest,
    openStep: Ask<Opened>,
    { current, emitted, error, round, tokensBefore }: Break
  ): Effect.Effect<{ readonly current: Current; readonly parts: Parts } | undefined> => {
    const broken = current.step
    const attempts: Array<Attempt.Attempt> = [failedAttempt(broken, error, monotonic(clock) - current.startedAt)]
    const index = steps.findIndex((step) => step.id === broken.id)
    const continued = recovery === "continue" && speaksFreely(request) ? Seam.continuing(emitted.text) : undefined
    const ways = [...steps.slice(index + 1), ...steps.slice(0, index + 1)].flatMap((step) => [
      ...(continued !== undefined && step.capabilities.prefill === true ? [{ step, by: "continue" as const }] : []),
      { step, by: "restart" as const }
    ])
    const asking = ways.map(({ step }) => step)
    const from = (way: number): ReturnType<typeof resume> => {
      const next = ways[way]
      if (next === undefined) {
        if (hub.active()) hub.publish({ _tag: "RecoveryFailed", request: request.id, from: broken.id, error, attempts })
        return Effect.undefined
      }
      const { by, step } = next
      const now = monotonic(clock)
      const remaining = request.expiresAt - now
      const impossible = remaining < minimumTime || request.allowance.left <= 0
      if (impossible || lacks(step, request, undefined) !== undefined) return from(way + 1)
      const seam = by === "continue" && continued !== undefined ? continued.seam : Seam.restarting(emitted.text)
      const asked = by === "continue" && continued !== undefined ? prefilled(request, continued.prefill) : request
      const reason = step.availability(request, now)
      if (reason !== undefined) {
        recordSkip(attempts, request, step, reason)
        return from(way + 1)
      }
      if (hub.active()) {
        hub.publish({ _tag: "AttemptStarted", request: request.id, provider: step.id, model: step.model })
      }
      const stepsLeft = takers(asking, way + 1, request, undefined, now)
      request.allowance.left--
      const until = remaining === Infinity ? Infinity : now + (stepsLeft === 0 ? remaining : remaining * share)
      const joining = Effect.flatMap(openStep(step, { ...asked, stepsLeft }, until), (opening) =>
        Effect.onExit(join(opening, Recovery.joint(emitted, seam, round, tokensBefore)), (exit) =>
          Exit.isSuccess(exit) && exit.value !== undefined ? Effect.void : opening.close(exit)
        ).pipe(
          Effect.flatMap((joined) =>
            joined === undefined ? Effect.fail(different(step)) : Effect.succeed({ ...joined, opening })
          )
        )
      )
      // What is held back is not yet said: until then the step is bound to its share of the time.
      const attempt = within(joining, until - now, () => Effect.fail(late(step, until - now)), 0)
      return Effect.matchCauseEffect(attempt, {
        onFailure: (cause) => {
          const failure = failureOf(step, cause)
          if (failure._tag === "LlmUnavailable") {
            attempts.push(...failure.attempts)
            publishRefusal(request, step, failure)
            if (LlmUnavailable.wasRefused(failure)) request.allowance.left++
          } else recordFailure(attempts, request, step, failure, monotonic(clock) - now)
          return from(way + 1)
        },
        onSuccess: (joined) => {
          if (hub.active()) {
            const duration = Duration.millis(monotonic(clock) - now)
            hub.publish({ _tag: "AttemptSucceeded", request: request.id, provider: step.id, duration })
            hub.publish({ _tag: "Recovered", request: request.id, from: broken.id, to: step.id, by, error })
          }
          const before = [...current.served.attempts, ...attempts]
          const amend = (served: LlmResponse.Served) => Recovery.together(current.served, serve(served, step, before))
          const served = amend(announced(joined.opening) ?? LlmResponse.servedBy(step))
          return Effect.succeed({
            current: {
              step,
              startedAt: now,
              served,
              amend,
              opening: joined.opening,
              joint: joined.joint,
              spokeFrom: by === "continue" ? emitted.text.length : 0
            },
            parts: [{ type: "served", served }, ...joined.parts]
          })
        }
      })
    }
    return from(0)
  }

  const chain: Provider = {
    id: options?.id ?? "fallback",
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
      Clock.clockWith((clock) => {
        const request = LlmRequest.allow(LlmRequest.start(asked, monotonic(clock)))
        return walk(
          clock,
          request,
          "generate",
          (step, request, until) => step.generate(until === Infinity ? request : { ...request, expiresAt: until }),
          (response, step, attempts) =>
            attempts.length === 0 ? response : LlmResponse.withServed(response, serve(response.served, step, attempts)),
          () => Effect.void
        )
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
            const openStep: Ask<Opened> = (step, request, until) =>
              open(step.id, step.stream({ ...request, commitBy: until }), scope)
            return Effect.map(
              walk(clock, request, "stream", openStep, commit, ({ close }) => close(Exit.void)),
              (first) =>
                Stream.fromPull(
                  Effect.succeed(
                    recovering(first, { recoverable, resume: (found) => resume(clock, request, openStep, found) })
                  )
                )
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
  return chain
})

type Steps = ReadonlyArray<Provider>

const isFinal = (cause: Cause.Cause<Failure>): boolean =>
  cause.reasons.some((reason) => Cause.isFailReason(reason) && reason.error._tag !== "LlmUnavailable")

const wasSpared = (attempt: Attempt.Attempt, step: Provider): boolean =>
  attempt._tag === "Skipped" &&
  attempt.provider === step.id &&
  (attempt.reason._tag === "Unhealthy" || attempt.reason._tag === "Recovering")

// The first step from an index on that would take the request.
const nextTaker = (
  steps: Steps,
  from: number,
  request: LlmRequest.LlmRequest,
  tooLongFor: number | undefined,
  now: number
): Provider | undefined =>
  steps.find(
    (step, index) =>
      index >= from && lacks(step, request, tooLongFor) === undefined && step.availability(request, now) === undefined
  )

// How many steps are left from an index on, or none when nobody among them would take the request: who would be skipped needs no share of the
// time.
const takers = (
  steps: Steps,
  from: number,
  request: LlmRequest.LlmRequest,
  tooLongFor: number | undefined,
  now: number
): number => (nextTaker(steps, from, request, tooLongFor, now) === undefined ? 0 : steps.length - from)

type Ask<A> = (step: Provider, request: LlmRequest.LlmRequest, until: number) => Effect.Effect<A, Failure>

const sooner = (left: Attempt.SkipReason | undefined, right: Attempt.SkipReason): Attempt.SkipReason => {
  const [wait, other] = [left, right].map((reason) => reason && Attempt.skipRetryAfter(reason))
  if (left === undefined || wait === undefined) return right
  return other !== undefined && Duration.isLessThan(other, wait) ? right : left
}

type Parts = Arr.NonEmptyReadonlyArray<LlmResponse.LlmStreamPart>

const failureOf = (step: Provider, cause: Cause.Cause<Failure>): Failure =>
  cause.reasons.find(Cause.isFailReason)?.error ?? ProviderError.fromDefect(step.id, cause)

const failedAttempt = (step: Provider, error: ProviderError.ProviderError, millis: number) => ({
  _tag: "Failed" as const,
  provider: step.id,
  model: step.model,
  error,
  duration: Duration.millis(millis)
})

const announced = (opening: Opened): LlmResponse.Served | undefined =>
  opening.head.findLast((part) => part.type === "served")?.served

// JSON is begun anew and not continued, and so is an answer that has to be a tool call.
const speaksFreely = (request: LlmRequest.LlmRequest): boolean =>
  request.responseFormat.type === "text" &&
  (request.toolChoice === "auto" || request.toolChoice === "none" || request.tools.length === 0)

const different = (step: Provider) =>
  new ProviderError.APIError({
    provider: step.id,
    reason: "InvalidResponse",
    description: "The answer differs from what the reader has seen already"
  })

const late = (step: Provider, millis: number) =>
  new ProviderError.Timeout({ provider: step.id, kind: "deadline", after: Duration.millis(Math.max(0, millis)) })

// The same request, ending in an assistant message that the model is to go on with, and with room for what is still to be said.
const prefilled = (request: LlmRequest.LlmRequest, text: string): LlmRequest.LlmRequest => {
  const { maxOutputTokens } = request.settings
  const left = maxOutputTokens === undefined ? undefined : Math.max(1, maxOutputTokens - Recovery.estimateTokens(text))
  return {
    ...request,
    prompt: Prompt.concat(request.prompt, [{ role: "assistant", content: text }]),
    settings: left === undefined ? request.settings : { ...request.settings, maxOutputTokens: left }
  }
}

const anyRequest = LlmRequest.make({ prompt: "" })

const statusOf = (step: Provider, clock: Clock.Clock): Effect.Effect<ReadonlyArray<Status>> =>
  Effect.map(step.status, (statuses) => {
    const unavailable = step.availability(anyRequest, monotonic(clock))
    return unavailable === undefined ? statuses : statuses.map((status) => ({ ...status, unavailable }))
  })

// What a request needs and a step is known not to have. Unknown capabilities never exclude a step.
const lacks = (step: Provider, request: LlmRequest.LlmRequest, tooLongFor: number | undefined): string | undefined => {
  const { contextWindow, files, images, jsonSchema, tools } = step.capabilities
  if (tooLongFor !== undefined && contextWindow !== undefined && contextWindow <= tooLongFor) {
    return `a context window of more than ${tooLongFor} tokens`
  }
  if (contextWindow !== undefined && exceeds(request.prompt, contextWindow)) {
    return `a context window of more than ${contextWindow} tokens`
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
