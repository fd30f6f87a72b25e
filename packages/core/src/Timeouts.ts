/**
 * Bounds how long one provider may take, with a clock for each way of being slow.
 *
 * | clock        | whole answer                     | stream                                                   | default |
 * | ------------ | -------------------------------- | -------------------------------------------------------- | ------- |
 * | `connect`    | left to the transport            | any sign of life, counted from the moment of sending      | none    |
 * | `attempt`    | the whole call                   | nothing: a living stream may be long                      | 30 s    |
 * | `firstToken` | nothing                          | the first content, counted from the moment of sending     | 30 s    |
 * | `idle`       | nothing                          | silence between two parts, not counting a slow reader     | 15 s    |
 * | deadline     | `request.expiresAt`              | `request.expiresAt`, and `commitBy` for the first content | none    |
 *
 * `firstToken` runs from the moment the request is sent: a provider that accepts a connection and never answers would otherwise be
 * waited for until the operating system gives up. When several clocks run, the one that ends first names the error.
 *
 * **Endings**
 *
 * `cooperative` (default) interrupts the call and waits for its cleanup as long as the deadline allows, so nothing of it is left when the
 * error arrives. `hard` returns on time and lets the loser clean up behind your back: choose it for
 * providers whose cancellation is slow. Either way an answer that comes too late is discarded: interruption is final in Effect.
 *
 * A timeout of zero, less than zero or infinity disables that clock.
 *
 * @since 0.1.0
 */
import * as Clock from "effect/Clock"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Stream from "effect/Stream"
import { monotonic } from "./internal/monotonic.ts"
import { watch } from "./internal/watch.ts"
import { until } from "./internal/within.ts"
import * as LlmRequest from "./LlmRequest.ts"
import * as LlmResponse from "./LlmResponse.ts"
import type * as Policy from "./Policy.ts"
import * as ProviderError from "./ProviderError.ts"

/**
 * Options of the timeouts; see the table in the module's documentation.
 *
 * @category models
 * @since 0.1.0
 */
export interface Options {
  readonly connect?: Duration.Input | undefined
  readonly attempt?: Duration.Input | undefined
  readonly firstToken?: Duration.Input | undefined
  readonly idle?: Duration.Input | undefined
  readonly ending?: "cooperative" | "hard" | undefined
}

/**
 * Creates the policy.
 *
 * **Details**
 *
 * `firstToken` follows `attempt` unless given. `Infinity`, zero and less than zero set no limit.
 *
 * **Example** (Giving up on a silent provider)
 *
 * ```ts import.meta.vitest
 * import { Effect } from "effect"
 * import { LlmRequest, Provider, Timeouts } from "@llm-resilience/core"
 *
 * const silent = Provider.make({ id: "silent", model: "m", generate: () => Effect.never })
 *
 * const program = Effect.scoped(
 *   Effect.gen(function*() {
 *     const bounded = yield* Timeouts.policy({ attempt: "10 millis" })(silent)
 *     const error = yield* Effect.flip(bounded.generate(LlmRequest.make({ prompt: "Hi" })))
 *     return error._tag === "Timeout" ? error.kind : error._tag
 *   })
 * )
 *
 * await Effect.runPromise(program) // => "attempt"
 * ```
 *
 * @category policies
 * @since 0.1.0
 */
export const policy = (options?: Options): Policy.Policy => {
  const connect = millisOf(options?.connect ?? Infinity)
  const attempt = millisOf(options?.attempt ?? "30 seconds")
  const firstToken = millisOf(options?.firstToken ?? options?.attempt ?? "30 seconds")
  const idle = millisOf(options?.idle ?? "15 seconds")
  // Cleaning up may take as long as the deadline has room for it, or no time at all.
  const graceOf = (left: number): number => (options?.ending === "hard" ? 0 : left)
  return (self) => {
    const timeout = (kind: ProviderError.Timeout["kind"], millis: number) =>
      new ProviderError.Timeout({ provider: self.id, kind, after: Duration.millis(millis) })
    return Effect.succeed({
      ...self,
      keepsDeadline: true,
      generate: (asked) =>
        Effect.withFiber((fiber) => {
          const now = monotonic(fiber.getRef(Clock.Clock))
          const request = LlmRequest.start(asked, now)
          const left = request.expiresAt - now
          if (left <= 0) return Effect.fail(timeout("deadline", 0))
          const asking = self.generate(request)
          return left < attempt
            ? until(fiber, asking, request.expiresAt, () => Effect.fail(timeout("deadline", left)), 0)
            : until(
                fiber,
                asking,
                now + attempt,
                () => Effect.fail(timeout("attempt", attempt)),
                graceOf(left - attempt)
              )
        }),
      stream: (asked) =>
        Stream.unwrap(
          Clock.clockWith((clock) =>
            Effect.sync(() => {
              const sentAt = monotonic(clock)
              const request = LlmRequest.start(asked, sentAt)
              let phase: "connect" | "firstToken" | "idle" = "connect"
              let pulledAt = sentAt
              // Which of the running clocks ends first, as [moment, name].
              const next = (): readonly [number, ProviderError.Timeout["kind"]] => {
                if (phase === "idle") {
                  const silence = pulledAt + idle
                  return silence <= request.expiresAt ? [silence, "idle"] : [request.expiresAt, "deadline"]
                }
                const ends: ReadonlyArray<readonly [number, ProviderError.Timeout["kind"]]> = [
                  [phase === "connect" ? sentAt + connect : Infinity, "connect"],
                  [sentAt + firstToken, "firstToken"],
                  [Math.min(request.expiresAt, request.commitBy), "deadline"]
                ]
                return ends.reduce((soonest, end) => (end[0] < soonest[0] ? end : soonest))
              }
              return watch(self.stream(request), {
                limit: (now) => {
                  pulledAt = now
                  return next()[0]
                },
                expiresAt: request.expiresAt,
                onParts: (parts) => {
                  if (phase !== "idle") phase = parts.some(LlmResponse.isContent) ? "idle" : "firstToken"
                },
                onTimeout: (now) => {
                  const kind = next()[1]
                  return timeout(kind, now - (kind === "idle" ? pulledAt : sentAt))
                },
                grace: (now) =>
                  graceOf((phase === "idle" ? request.expiresAt : Math.min(request.expiresAt, request.commitBy)) - now)
              })
            })
          )
        )
    })
  }
}

/**
 * The policy that only keeps the deadline of the request, where nothing inside does.
 *
 * @category policies
 * @since 0.1.0
 */
export const deadline: Policy.Policy = (self) =>
  self.keepsDeadline ? Effect.succeed(self) : policy({ attempt: Infinity, idle: Infinity })(self)

const millisOf = (input: Duration.Input): number => {
  const millis = Duration.toMillis(input)
  return millis > 0 ? millis : Infinity
}
