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
import type { LlmRequest } from "./LlmRequest.ts"
import * as LlmResponse from "./LlmResponse.ts"
import type { Failure, Provider } from "./Provider.ts"
import * as ProviderError from "./ProviderError.ts"

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
 * `keepsDeadline: true` that it never waits longer than `request.expiresAt`.
 *
 * @category constructors
 * @since 0.1.0
 */
export const make =
  (change: (self: Provider) => Partial<Provider>): Policy =>
  (self) =>
    Effect.sync(() => ({ ...self, keepsDeadline: false, ...change(self) }))

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
 * reader. `Abandoned` means that the caller left: neither good nor bad for the provider.
 *
 * @category models
 * @since 0.1.0
 */
export type Outcome =
  | { readonly _tag: "Succeeded"; readonly duration: number }
  | { readonly _tag: "Failed"; readonly error: Failure; readonly duration: number }
  | { readonly _tag: "Abandoned"; readonly duration: number }

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
 * `admit` runs before the provider is called; when it fails, the provider is not called and `settle` does not run. Its result, the
 * ticket, is handed to `settle`, and at the first content of a stream to `commit`, which may exchange it. `admit` and `settle` cannot be
 * interrupted: an `admit` that waits makes the waiting, and only it, `Effect.interruptible`.
 *
 * @category constructors
 * @since 0.1.0
 */
export const observe =
  <T>(options: {
    readonly admit: (request: LlmRequest, now: number) => Effect.Effect<T, Failure>
    readonly settle: (ticket: T, outcome: Outcome, now: number) => Effect.Effect<void>
    readonly commit?: ((ticket: T, duration: number, now: number) => T) | undefined
  }) =>
  (self: Provider): Pick<Provider, "generate" | "stream"> => ({
    generate: (request) =>
      Clock.clockWith((clock) =>
        Effect.uninterruptibleMask((restore) => {
          const start = monotonic(clock)
          return Effect.flatMap(options.admit(request, start), (ticket) =>
            Effect.onExit(restore(self.generate(request)), (exit) => {
              const now = monotonic(clock)
              return options.settle(ticket, outcomeOf(self.id, exit, now - start), now)
            })
          )
        })
      ),
    stream: (request) =>
      Stream.unwrap(
        Clock.clockWith((clock) =>
          Effect.uninterruptible(
            Effect.gen(function* () {
              const start = monotonic(clock)
              const scope = yield* Effect.scope
              let ticket = yield* options.admit(request, start)
              let firstContent: number | undefined
              let settled = false
              const settle = (outcome: Outcome): Effect.Effect<void> =>
                Effect.suspend(() => {
                  if (settled) return Effect.void
                  settled = true
                  return Effect.uninterruptible(options.settle(ticket, outcome, monotonic(clock)))
                })
              const duration = () => (firstContent ?? monotonic(clock)) - start
              yield* Scope.addFinalizer(
                scope,
                Effect.suspend(() => settle({ _tag: "Abandoned", duration: duration() }))
              )
              return Stream.transformPull(self.stream(request), (pull) =>
                Effect.succeed(
                  Effect.matchCauseEffect(pull, {
                    onFailure: (cause) =>
                      Effect.andThen(settle(outcomeOfCause(self.id, cause, duration())), Effect.failCause(cause)),
                    onSuccess: (parts) => {
                      if (firstContent === undefined && parts.some(LlmResponse.isContent)) {
                        firstContent = monotonic(clock)
                        if (options.commit !== undefined)
                          ticket = options.commit(ticket, firstContent - start, firstContent)
                      }
                      const finished = parts.at(-1)?.type === "finish"
                      return finished
                        ? Effect.as(settle({ _tag: "Succeeded", duration: duration() }), parts)
                        : Effect.succeed(parts)
                    }
                  })
                )
              )
            })
          )
        )
      )
  })

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
