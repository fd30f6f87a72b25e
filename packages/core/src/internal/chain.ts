import * as Cause from "effect/Cause"
import * as Duration from "effect/Duration"
import type * as Effect from "effect/Effect"
import type * as Attempt from "../Attempt.ts"
import * as Decision from "../Decision.ts"
import type * as Hedge from "../Hedge.ts"
import type { LlmRequest } from "../LlmRequest.ts"
import type { LlmUnavailable } from "../LlmUnavailable.ts"
import type { Failure, Provider } from "../Provider.ts"
import * as ProviderError from "../ProviderError.ts"
import type { Hub } from "../ResilienceEvent.ts"
import type * as Routing from "../Routing.ts"

/** What the walk along a chain and the recovery of its streams go by. Times are in milliseconds. */
export interface Chain {
  /** By rising priority, equal ones as they are written. */
  readonly steps: ReadonlyArray<Provider>
  readonly ordered: ReturnType<typeof Routing.make>
  readonly share: number
  readonly minimumTime: number
  readonly lastResortEvery: number
  readonly hedge: Hedge.Settings | undefined
  readonly table: Decision.Table
  readonly hub: Hub
  readonly unavailable: (attempts: ReadonlyArray<Attempt.Attempt>) => LlmUnavailable
}

/** Asks a step, which has until the given monotonic millisecond, and is told how many could take over. */
export type Ask<A> = (
  step: Provider,
  request: LlmRequest,
  stepsLeft: number,
  until: number
) => Effect.Effect<A, Failure>

/** Writes down that a step was passed over. */
export const recordSkip = (
  { hub }: Chain,
  attempts: Array<Attempt.Attempt>,
  request: LlmRequest,
  step: Provider,
  reason: Attempt.SkipReason
): void => {
  attempts.push({ _tag: "Skipped", provider: step.id, model: step.model, reason })
  if (hub.active()) hub.publish({ _tag: "StepSkipped", request: request.id, provider: step.id, reason })
}

/** Writes down that a step refused when it was called, by what its own attempts tell: it has an end, too, and a chain within this one its own steps. */
export const recordRefusal = (
  { hub }: Chain,
  attempts: Array<Attempt.Attempt>,
  request: LlmRequest,
  step: Provider,
  error: LlmUnavailable
): void => {
  attempts.push(...error.attempts)
  if (!hub.active()) return
  const last = error.attempts.at(-1)
  const reason: Attempt.SkipReason =
    last?._tag === "Skipped" && last.provider === step.id ? last.reason : { _tag: "Exhausted" }
  hub.publish({ _tag: "StepSkipped", request: request.id, provider: step.id, reason })
}

/** Writes down that a step failed, and returns what follows from it. */
export const recordFailure = (
  { hub, table }: Chain,
  attempts: Array<Attempt.Attempt>,
  request: LlmRequest,
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

/** A step that failed, on the record. */
export const failedAttempt = (step: Provider, error: ProviderError.ProviderError, millis: number) => ({
  _tag: "Failed" as const,
  provider: step.id,
  model: step.model,
  error,
  duration: Duration.millis(millis)
})

/** What a step failed with. A defect is an error of the provider. */
export const failureOf = (step: Provider, cause: Cause.Cause<Failure>): Failure =>
  cause.reasons.find(Cause.isFailReason)?.error ?? ProviderError.fromDefect(step.id, cause)
