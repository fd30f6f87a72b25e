/**
 * One concern around one provider: a policy takes a provider and gives a provider.
 *
 * Ours and yours compose in any order, around one model, around a chain, or around a chain of chains. A policy does its set-up
 * once, when the layer is built, and nothing but its work per call.
 *
 * **Example** (A policy of your own)
 *
 * ```ts import.meta.vitest
 * import { Effect, Stream } from "effect"
 * import { Prompt } from "effect/ai"
 * import { LlmRequest, LlmResponse, Policy, Provider } from "@llm-resilience/core"
 *
 * const politely = Policy.make((self) => {
 *   const ask = (request: LlmRequest.LlmRequest) => ({
 *     ...request,
 *     prompt: Prompt.setSystem(request.prompt, "Answer politely.")
 *   })
 *   return {
 *     generate: (request) => self.generate(ask(request)),
 *     stream: (request) => self.stream(ask(request))
 *   }
 * })
 *
 * const model = Provider.make({
 *   id: "echo",
 *   model: "echo-1",
 *   generate: (request) =>
 *     Effect.succeed({ content: LlmResponse.textContent(JSON.stringify(request.prompt.content.at(-1)?.content)) })
 * })
 *
 * const program = Effect.scoped(
 *   Effect.gen(function*() {
 *     const provider = yield* politely(model)
 *     const parts = yield* Stream.runCollect(provider.stream(LlmRequest.make({ prompt: "Hi" })))
 *     return parts.length
 *   })
 * )
 *
 * await Effect.runPromise(program) // => 4
 * ```
 *
 * @since 0.1.0
 */
import * as Cause from "effect/Cause"
import * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Pull from "effect/Pull"
import * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import { monotonic } from "./internal/monotonic.ts"
import * as LlmRequest from "./LlmRequest.ts"
import * as LlmResponse from "./LlmResponse.ts"
import type { Failure, Provider } from "./Provider.ts"
import * as ProviderError from "./ProviderError.ts"
import * as ResilienceEvent from "./ResilienceEvent.ts"

/**
 * Turns a provider into a provider. The scope is that of the layer: a policy that starts fibers or holds state cleans up with it.
 *
 * @category models
 * @since 0.1.0
 */
export type Policy<R = never> = (self: Provider) => Effect.Effect<Provider, never, Scope.Scope | R>

/**
 * Creates a policy from a function that gives the members of the provider which it changes.
 *
 * **Details**
 *
 * What a policy waits for, nobody knows; a chain therefore puts a deadline of its own around the result, unless the policy says with
 * `keepsDeadline: true` that it never waits longer than `request.expiresAt`. An `availability` that throws is published as `DefectCaught`, and the
 * provider within is asked for its own: what is broken is then found out by a call, of which a chain knows how to take a defect.
 *
 * @category constructors
 * @since 0.1.0
 */
export const make =
  (change: (self: Provider) => Partial<Provider>): Policy =>
  (self) =>
    Effect.map(ResilienceEvent.CurrentHub, (hub) => {
      const changed = change(self)
      const { availability } = changed
      if (availability === undefined) return { ...self, keepsDeadline: false, ...changed }
      const asked: Provider["availability"] = (request, now) => {
        try {
          return availability(request, now)
        } catch (cause) {
          if (hub.active()) hub.publish({ _tag: "DefectCaught", provider: self.id, cause })
          return self.availability(request, now)
        }
      }
      return { ...self, keepsDeadline: false, ...changed, availability: asked }
    })

/**
 * Joins policies to one. The first is the outermost, so the list reads as a call travels: outside to inside.
 *
 * **Example** (A breaker inside retries)
 *
 * ```ts import.meta.vitest
 * import { CircuitBreaker, Policy, Retry, Timeouts } from "@llm-resilience/core"
 *
 * const policy = Policy.all([Retry.policy(), CircuitBreaker.policy(), Timeouts.policy({ attempt: "20 seconds" })])
 *
 * typeof policy // => "function"
 * ```
 *
 * @category combinators
 * @since 0.1.0
 */
export const all =
  <const Policies extends ReadonlyArray<Policy<unknown>>>(policies: Policies): Policy<Services<Policies[number]>> =>
  (self) =>
    (policies as ReadonlyArray<Policy<Services<Policies[number]>>>).reduceRight<
      ReturnType<Policy<Services<Policies[number]>>>
    >((provider, policy) => Effect.flatMap(provider, policy), Effect.succeed(self))

/**
 * What the set-up of a policy needs.
 *
 * @category models
 * @since 0.1.0
 */
export type Services<P> = P extends Policy<infer R> ? R : never

/**
 * The policy that changes nothing.
 *
 * @category constructors
 * @since 0.1.0
 */
export const none: Policy = (self) => Effect.succeed(self)

/**
 * How a call ended, as seen by {@link observe}.
 *
 * **Details**
 *
 * `duration` is in milliseconds of monotonic time; for a stream it ends at the first content, because the rest is as slow as its
 * reader. `Abandoned` means that the caller left: neither good nor bad for the provider. `usage` and `limits` are what the answer says about
 * itself; the parts of a stream have no `limits`.
 *
 * @category models
 * @since 0.1.0
 */
export type Outcome =
  | {
      readonly _tag: "Succeeded"
      readonly duration: number
      readonly usage?: LlmResponse.Usage | undefined
      readonly limits?: LlmResponse.Limits | undefined
    }
  | { readonly _tag: "Failed"; readonly error: Failure; readonly duration: number }
  | { readonly _tag: "Abandoned"; readonly duration: number }

/**
 * Something that takes a ticket before a call and gives it back after.
 *
 * **Details**
 *
 * - `admit` runs before the provider is called; when it fails, the provider is not called and `settle` does not run.
 * - `settle` gets the ticket and how the call ended, exactly once, however it ends.
 * - `commit` gets the ticket at the first content of a stream and may exchange it.
 *
 * @category models
 * @since 0.1.0
 */
export interface Observer<T> {
  readonly admit: (request: LlmRequest.LlmRequest, now: number) => Effect.Effect<T, Failure>
  readonly settle: (ticket: T, outcome: Outcome, now: number) => Effect.Effect<void>
  readonly commit?: ((ticket: T, duration: number, now: number) => T) | undefined
}

/**
 * Creates the part of a policy that admits calls and learns how they ended, the same for whole and streamed answers.
 *
 * **When to use**
 *
 * Use for breakers, limits, statistics: whatever takes something before a call and gives it back after, exactly once, however the
 * call ends (success, failure, defect, interruption, a reader that stops early).
 *
 * **Details**
 *
 * `admit` and `settle` cannot be interrupted: an `admit` that waits makes the waiting, and only it, `Effect.interruptible`. The clock of the
 * request runs from before `admit`: `request.expiresAt` is the end of what it may wait. Observers that are
 * put around each other directly share one pass over the call and over each part of a stream, in the same order as if they did not.
 *
 * @category constructors
 * @since 0.1.0
 */
export const observe =
  <T>(observer: Observer<T>) =>
  (self: Provider): Pick<Provider, "generate" | "stream"> => {
    // A ticket goes back to the observer that gave it and to nobody else, so its type can be forgotten on the way.
    const forgetful = observer as Observer<unknown>
    return {
      generate: observedGenerate(self.id, forgetful, self.generate),
      stream: observedStream(self.id, forgetful, self.stream)
    }
  }

interface Pass<F> {
  readonly observers: ReadonlyArray<Observer<unknown>>
  readonly base: F
}

// Which functions are a pass of observers over which other function, so that one more observer joins the pass.
const generates = new WeakMap<Provider["generate"], Pass<Provider["generate"]>>()
const streams = new WeakMap<Provider["stream"], Pass<Provider["stream"]>>()

// The tickets of the first observers of a pass, and since when each of them has it.
interface Taken {
  readonly tickets: Array<unknown>
  readonly since: Array<number>
}

const take = ({ since, tickets }: Taken, ticket: unknown, now: number): void => {
  tickets.push(ticket)
  since.push(now)
}

// Admits by one observer after the other; `taken` holds the tickets to give back, also of a pass that was refused half-way. Most admit at once:
// what is an exit already needs no step of the fiber, and took no time.
const admitAll = <A>(
  clock: Clock.Clock,
  observers: ReadonlyArray<Observer<unknown>>,
  request: LlmRequest.LlmRequest,
  taken: Taken,
  start: number,
  call: (request: LlmRequest.LlmRequest) => Effect.Effect<A, Failure>
): Effect.Effect<A, Failure> => {
  const { tickets } = taken
  for (let next = observers[tickets.length]; next !== undefined; next = observers[tickets.length]) {
    const admission = next.admit(request, start)
    if (admission === Effect.void) take(taken, undefined, start)
    else if (Exit.isExit(admission) && Exit.isSuccess(admission)) take(taken, admission.value, start)
    else {
      return Effect.flatMap(admission, (ticket) => {
        take(taken, ticket, start)
        return admitAll(clock, observers, request, taken, monotonic(clock), call)
      })
    }
  }
  return call(request)
}

// The other way round, from the last one or from `last` on. One that dies must not keep the others from getting their tickets back. Most have
// nothing left to do, and then neither has the fiber; and most were admitted at the same moment, so that the outcome is the same for them.
const settleAll = (
  observers: ReadonlyArray<Observer<unknown>>,
  taken: Taken,
  now: number,
  outcomeSince: (start: number) => Outcome,
  last = taken.tickets.length - 1
): Effect.Effect<void> | undefined => {
  const { since, tickets } = taken
  let outcome: Outcome | undefined
  for (let index = last; index >= 0; index--) {
    const observer = observers[index]
    const start = since[index]
    if (observer === undefined || start === undefined) continue
    let settled: Effect.Effect<void>
    // They are not worth a `suspend`, which would see what they throw.
    try {
      if (outcome === undefined || start !== since[index + 1]) outcome = outcomeSince(start)
      settled = observer.settle(tickets[index], outcome, now)
    } catch (defect) {
      settled = Effect.die(defect)
    }
    if (settled === Effect.void) continue
    return Effect.ensuring(
      settled,
      Effect.suspend(() => settleAll(observers, taken, now, outcomeSince, index - 1) ?? Effect.void)
    )
  }
  return undefined
}

const observedGenerate = (
  id: string,
  observer: Observer<unknown>,
  inner: Provider["generate"]
): Provider["generate"] => {
  const within = generates.get(inner)
  const pass = { observers: [observer, ...(within?.observers ?? [])], base: within?.base ?? inner }
  const generate: Provider["generate"] = (asked) =>
    Effect.uninterruptibleMask((restore) => {
      const taken: Taken = { tickets: [], since: [] }
      let clock: Clock.Clock | undefined
      const admitted = Effect.withFiber((fiber) => {
        clock = fiber.getRef(Clock.Clock)
        const start = monotonic(clock)
        const call = (request: LlmRequest.LlmRequest) => restore(pass.base(request))
        return admitAll(clock, pass.observers, LlmRequest.start(asked, start), taken, start, call)
      })
      return Effect.onExitPrimitive(admitted, (exit) => {
        if (clock === undefined) return undefined
        const now = monotonic(clock)
        if (Exit.isFailure(exit))
          return settleAll(pass.observers, taken, now, (start) => outcomeOf(id, exit, now - start))
        const { limits, usage } = exit.value
        return settleAll(pass.observers, taken, now, (start) => ({
          _tag: "Succeeded",
          duration: now - start,
          usage,
          limits
        }))
      })
    })
  generates.set(generate, pass)
  return generate
}

const observedStream = (id: string, observer: Observer<unknown>, inner: Provider["stream"]): Provider["stream"] => {
  const within = streams.get(inner)
  const pass = { observers: [observer, ...(within?.observers ?? [])], base: within?.base ?? inner }
  const stream: Provider["stream"] = (asked) =>
    Stream.unwrap(
      Clock.clockWith((clock) =>
        Effect.uninterruptible(
          Effect.gen(function* () {
            const scope = yield* Effect.scope
            const taken: Taken = { tickets: [], since: [] }
            const start = monotonic(clock)
            const request = LlmRequest.start(asked, start)
            let firstContent: number | undefined
            let settled = false
            const settle = (outcomeAfter: (duration: number) => Outcome): Effect.Effect<void> =>
              Effect.suspend(() => {
                if (settled) return Effect.void
                settled = true
                const now = monotonic(clock)
                const settling = settleAll(pass.observers, taken, now, (start) =>
                  outcomeAfter((firstContent ?? now) - start)
                )
                return settling === undefined ? Effect.void : Effect.uninterruptible(settling)
              })
            yield* Scope.addFinalizer(
              scope,
              settle((duration) => ({ _tag: "Abandoned", duration }))
            )
            yield* Effect.onError(
              Effect.suspend(() => admitAll(clock, pass.observers, request, taken, start, () => Effect.void)),
              (cause) => settle((duration) => outcomeOfCause(id, cause, duration))
            )
            return Stream.transformPull(pass.base(request), (pull) =>
              Effect.succeed(
                Effect.matchCauseEffect(pull, {
                  onFailure: (cause) =>
                    Effect.andThen(
                      settle((duration) => outcomeOfCause(id, cause, duration)),
                      Effect.failCause(cause)
                    ),
                  onSuccess: (parts) => {
                    if (firstContent === undefined && parts.some(LlmResponse.isContent)) {
                      firstContent = monotonic(clock)
                      for (const [index, observer] of pass.observers.entries()) {
                        if (observer.commit === undefined) continue
                        const duration = firstContent - (taken.since[index] ?? firstContent)
                        taken.tickets[index] = observer.commit(taken.tickets[index], duration, firstContent)
                      }
                    }
                    const last = parts.at(-1)
                    return last?.type === "finish"
                      ? Effect.as(
                          settle((duration) => ({ _tag: "Succeeded", duration, usage: last.usage })),
                          parts
                        )
                      : Effect.succeed(parts)
                  }
                })
              )
            )
          })
        )
      )
    )
  streams.set(stream, pass)
  return stream
}

/**
 * Reads an exit as an {@link Outcome}. A defect is a failure of the provider.
 *
 * @category conversions
 * @since 0.1.0
 */
export const outcomeOf = (provider: string, exit: Exit.Exit<unknown, Failure>, duration: number): Outcome =>
  Exit.isSuccess(exit) ? { _tag: "Succeeded", duration } : outcomeOfCause(provider, exit.cause, duration)

const outcomeOfCause = (provider: string, cause: Cause.Cause<Failure | Cause.Done>, duration: number): Outcome => {
  if (Pull.isDoneCause(cause)) return { _tag: "Succeeded", duration }
  const error = cause.reasons.find(Cause.isFailReason)?.error
  if (error !== undefined && !Cause.isDone(error)) return { _tag: "Failed", error, duration }
  return Cause.hasDies(cause)
    ? { _tag: "Failed", error: ProviderError.fromDefect(provider, cause), duration }
    : { _tag: "Abandoned", duration }
}
