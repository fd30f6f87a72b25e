import type * as Response from "effect/ai/Response"
import * as Cause from "effect/Cause"
import * as Clock from "effect/Clock"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Pull from "effect/Pull"
import * as Stream from "effect/Stream"
import * as Cost from "../Cost.ts"
import type { LlmRequest } from "../LlmRequest.ts"
import * as LlmResponse from "../LlmResponse.ts"
import * as Policy from "../Policy.ts"
import type { Failure, Provider } from "../Provider.ts"
import type { Hub, Of } from "../ResilienceEvent.ts"
import { monotonic } from "./monotonic.ts"

/**
 * Tells of every call to a provider, beneath all policies: what a retry, a hedge or a guard makes of it nobody above can see any more, but
 * somebody pays for it.
 */
export const observed = (self: Provider, hub: Hub): Provider => ({
  ...self,
  generate: (request) => (hub.active() ? told(self, request, hub) : self.generate(request)),
  stream: (request) =>
    hub.active()
      ? watched(
          self.stream(request),
          () => ({}),
          (seen, exit, duration) =>
            hub.publish(called(self, request.id, "stream", exit, Duration.millis(duration), seen))
        )
      : self.stream(request)
})

const told = (self: Provider, request: LlmRequest, hub: Hub): ReturnType<Provider["generate"]> =>
  Clock.clockWith((clock) => {
    const start = clock.monotonicTimeNanosUnsafe()
    return Effect.onExitPrimitive(self.generate(request), (exit) => {
      const seen = Exit.isSuccess(exit) ? seenOf(exit.value) : {}
      hub.publish(
        called(self, request.id, "generate", exit, Duration.nanos(clock.monotonicTimeNanosUnsafe() - start), seen)
      )
      return undefined
    })
  })

/** What is known of an answer without its content. */
export interface Seen {
  served?: LlmResponse.Served
  metadata?: Response.ResponseMetadataPartEncoded
  finish?: Response.FinishPartEncoded
  firstContentAfter?: number
}

/** The same of a whole answer. */
export const seenOf = ({ content, served }: LlmResponse.LlmResponse): Seen => {
  const seen: Seen = { served }
  for (const part of content) look(seen, part)
  return seen
}

const look = (seen: Seen, part: Response.PartEncoded | LlmResponse.LlmStreamPart): void => {
  if (part.type === "served") seen.served = part.served
  else if (part.type === "response-metadata") seen.metadata = part
  else if (part.type === "finish") seen.finish = part
}

/**
 * Watches a stream from the moment it is run: `end` is called exactly once, with what was seen of it, however it ends.
 */
export const watched = (
  self: Stream.Stream<LlmResponse.LlmStreamPart, Failure>,
  begin: () => Seen,
  end: (seen: Seen, exit: Exit.Exit<unknown, Failure>, duration: number) => void
): Stream.Stream<LlmResponse.LlmStreamPart, Failure> =>
  Stream.unwrap(
    // Between the beginning and the promise to tell of the end nobody may leave.
    Effect.uninterruptible(
      Effect.gen(function* () {
        const clock = yield* Clock.Clock
        const start = monotonic(clock)
        const seen = begin()
        let ended = false
        const finish = (exit: Exit.Exit<unknown, Failure>): void => {
          if (ended) return
          ended = true
          end(seen, exit, monotonic(clock) - start)
        }
        yield* Effect.addFinalizer(() => Effect.sync(() => finish(Exit.interrupt())))
        return Stream.transformPull(self, (pull) =>
          Effect.succeed(
            Effect.matchCauseEffect(pull, {
              onFailure: (cause) => {
                const failures = cause.reasons.filter((reason) => !Pull.isDoneFailure(reason))
                // What is left has no end of the stream among its errors.
                finish(
                  failures.length === 0
                    ? Exit.void
                    : Exit.failCause(Cause.fromReasons(failures) as Cause.Cause<Failure>)
                )
                return Effect.failCause(cause)
              },
              onSuccess: (parts) => {
                for (const part of parts) {
                  look(seen, part)
                  if (seen.firstContentAfter === undefined && LlmResponse.isContent(part)) {
                    seen.firstContentAfter = monotonic(clock) - start
                  }
                }
                if (seen.finish !== undefined) finish(Exit.void)
                return Effect.succeed(parts)
              }
            })
          )
        )
      })
    )
  )

const called = (
  self: Provider,
  request: number,
  method: "generate" | "stream",
  exit: Exit.Exit<unknown, Failure>,
  duration: Duration.Duration,
  { finish, firstContentAfter, metadata, served }: Seen
): Of<"Called"> => {
  const outcome = Policy.outcomeOf(self.id, exit, 0)
  const error = outcome._tag === "Failed" && outcome.error._tag !== "LlmUnavailable" ? outcome.error : undefined
  const { price } = self.capabilities
  return {
    _tag: "Called",
    request,
    // A provider that is a chain says who of it answered.
    provider: served?.provider ?? self.id,
    model: served?.model ?? self.model,
    method,
    outcome: outcome._tag === "Succeeded" ? "succeeded" : outcome._tag === "Failed" ? "failed" : "abandoned",
    duration,
    firstContentAfter: firstContentAfter === undefined ? undefined : Duration.millis(firstContentAfter),
    error,
    usage: finish?.usage,
    costUsd: price === undefined || finish === undefined ? undefined : Cost.ofUsage(finish.usage, price),
    finishReason: finish?.reason,
    responseModel: metadata?.modelId,
    responseId: metadata?.id
  }
}
