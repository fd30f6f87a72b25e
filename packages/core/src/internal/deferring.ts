import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Stream from "effect/Stream"
import type { DeferredQueue, NotDeferrable, PolicyOptions, QueueFull } from "../DeferredQueue.ts"
import * as DeferredStore from "../DeferredStore.ts"
import type * as LlmRequest from "../LlmRequest.ts"
import * as LlmResponse from "../LlmResponse.ts"
import { LlmUnavailable } from "../LlmUnavailable.ts"
import type * as Notice from "../Notice.ts"
import type { Failure, Provider } from "../Provider.ts"
import * as ProviderError from "../ProviderError.ts"
import type * as ResilienceEvent from "../ResilienceEvent.ts"
import { stackless } from "./stackless.ts"
import { within } from "./within.ts"

/** A provider that hands in what may wait and was not answered, and fails with the ticket. */
export const deferring = (
  self: Provider,
  queue: DeferredQueue["Service"],
  hub: ResilienceEvent.Hub,
  {
    acceptWithin,
    terms: termsOf,
    translate
  }: {
    readonly acceptWithin: number
    readonly terms: PolicyOptions["terms"]
    readonly translate: (typeof Notice.Translate)["Service"]
  }
): Provider => {
  const refused = (request: LlmRequest.LlmRequest, error: LlmUnavailable, refusal: Refusal) =>
    Effect.suspend(() => {
      const reason = refusal._tag
      if (hub.active()) {
        if (reason === "StoreError") {
          const { cause, operation } = refusal
          hub.publish({ _tag: "DeferredStoreFailed", operation, cause })
        }
        hub.publish({ _tag: "DeferralRefused", request: request.id, reason })
      }
      return Effect.fail(stackless(() => new LlmUnavailable({ ...fieldsOf(error), notQueued: reason })))
    })

  const defer = (request: LlmRequest.LlmRequest, error: Failure): Effect.Effect<never, Failure> => {
    if (error._tag !== "LlmUnavailable" || request.stepsLeft > 0 || isHopeless(error)) return Effect.fail(error)
    // A queue within this one may have taken it.
    if (error.notice._tag === "Queued") return Effect.fail(error)
    const accepted = Effect.suspend(() => {
      const terms = termsOf?.(request)
      const accepting = within(queue.accept(request, terms), acceptWithin, storeTooSlow, 0)
      return Effect.map(accepting, (ticket) => ({ ticket, terms }))
    })
    return Effect.matchEffect(Effect.catchDefect(accepted, dying("insert")), {
      onFailure: (refusal) => refused(request, error, refusal),
      onSuccess: ({ terms, ticket }) => {
        if (hub.active()) hub.publish({ _tag: "Deferred", request: request.id, ticket })
        const expiresAfter = Duration.fromInputUnsafe(terms?.expiresAfter ?? queue.expiresAfter)
        const facts = { _tag: "Queued" as const, ticket, expiresAfter }
        return Effect.fail(
          stackless(
            () =>
              new LlmUnavailable({
                ...fieldsOf(error),
                suggestion: "There is no need to ask again: the answer will come.",
                notice: { ...facts, message: translate(facts) }
              })
          )
        )
      }
    })
  }

  return {
    ...self,
    generate: (request) =>
      request.mayWait ? Effect.catch(self.generate(request), (error) => defer(request, error)) : self.generate(request),
    stream: (request) =>
      request.mayWait
        ? Stream.suspend(() => {
            let begun = false
            return self.stream(request).pipe(
              Stream.tap((part) => {
                begun ||= LlmResponse.isContent(part)
                return Effect.void
              }),
              // What the reader has begun to read is not answered a second time.
              Stream.catch((error) => Stream.fromEffect(begun ? Effect.fail(error) : defer(request, error)))
            )
          })
        : self.stream(request)
  }
}

type Refusal = QueueFull | NotDeferrable | DeferredStore.StoreError

const storeTooSlow = () => Effect.fail(new DeferredStore.StoreError({ operation: "insert", cause: "It took too long" }))

const fieldsOf = ({ attempts, message, notice, retryAfter, suggestion }: LlmUnavailable) => ({
  message,
  suggestion,
  attempts,
  notice,
  ...(retryAfter === undefined ? {} : { retryAfter })
})

/** Whether waiting helps nobody: the request is too long for every model, or needs what none has. */
export const isHopeless = ({ attempts }: LlmUnavailable): boolean =>
  attempts.length > 0 &&
  attempts.every((attempt) =>
    attempt._tag === "Skipped"
      ? attempt.reason._tag === "NotCapable"
      : attempt._tag === "Failed" && ProviderError.kind(attempt.error) === "ContextLengthExceeded"
  )

/** What a store died of, as an error of the store. */
export const dying = (operation: string) => (cause: unknown) =>
  Effect.fail(new DeferredStore.StoreError({ operation, cause }))
