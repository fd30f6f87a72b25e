/**
 * What one writes with effect alone: `ExecutionPlan` for the fallback, `CircuitBreaker`, `retry` and `timeout` around each call.
 *
 * No official provider package loads with effect 4.1 today, so the calls are made by our adapter without any policy. It classifies
 * errors and notices broken answers, which an adapter written by hand might not.
 */
import * as Provider from "@llm-resilience/core/Provider"
import * as LlmRequest from "@llm-resilience/core/LlmRequest"
import * as OpenAiCompatible from "@llm-resilience/providers/OpenAiCompatible"
import * as Cause from "effect/Cause"
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as ExecutionPlan from "effect/ExecutionPlan"
import * as FetchHttpClient from "effect/http/FetchHttpClient"
import * as Layer from "effect/Layer"
import * as ManagedRuntime from "effect/ManagedRuntime"
import * as CircuitBreaker from "effect/persistence/CircuitBreaker"
import * as Schedule from "effect/Schedule"
import * as Stream from "effect/Stream"
import type { Limits, MakeClient } from "../Client.ts"
import { reading } from "./reading.ts"

/** The breaker and its options are the first example of its documentation. */
export const breakers = CircuitBreaker.layer({
  tripPolicy: CircuitBreaker.consecutive(5),
  openDuration: "30 seconds"
}).pipe(Layer.provide(CircuitBreaker.layerStoreMemory()))

const backoff = Schedule.exponential("500 millis")

export const make: MakeClient = async (upstreams, limits) => {
  const runtime = ManagedRuntime.make(Layer.merge(breakers, FetchHttpClient.layer))
  const provider = (id: string, baseUrl: string) =>
    runtime.runPromise(OpenAiCompatible.make({ id, model: "gpt-5", baseUrl }))
  const plan = ExecutionPlan.make(
    { provide: Context.make(Provider.Provider, await provider("primary", upstreams.primary)) },
    { provide: Context.make(Provider.Provider, await provider("backup", upstreams.backup)) }
  )
  const ask = asking(plan, limits)
  const attempt = Duration.millis(limits.attemptMillis)

  const stream = (question: string) =>
    Stream.unwrap(
      Effect.map(Provider.Provider, (provider) =>
        provider.stream(LlmRequest.make({ prompt: question })).pipe(
          // One clock for each pull: there is none that tells the first token from the others.
          Stream.timeoutOrElse({ duration: attempt, orElse: () => Stream.fail(new Cause.TimeoutError()) })
        )
      )
    ).pipe(Stream.withExecutionPlan(plan, { preventFallbackOnPartialStream: true }))

  return {
    ask: (question, signal) =>
      runtime.runPromise(
        Effect.map(ask(LlmRequest.make({ prompt: question })), ({ finishReason, text }) => ({ text, finishReason })),
        { signal }
      ),
    stream: (question, signal, onText) =>
      runtime.runPromise(Effect.timeout(reading(stream(question), onText), Duration.millis(limits.deadlineMillis)), {
        signal
      })
  }
}

/** A whole answer: timeout, breaker and retry around each step of the plan, and a deadline around all. */
export const asking = (
  plan: ExecutionPlan.ExecutionPlan<{ provides: Provider.Provider; input: unknown; error: never; requirements: never }>,
  limits: Limits
) => {
  const attempt = Duration.millis(limits.attemptMillis)
  const deadline = Duration.millis(limits.deadlineMillis)
  return (request: LlmRequest.LlmRequest) =>
    Effect.gen(function* () {
      const provider = yield* Provider.Provider
      const breaker = yield* CircuitBreaker.CircuitBreaker
      return yield* provider
        .generate(request)
        .pipe(
          Effect.timeout(attempt),
          breaker.execute({ key: provider.id }),
          Effect.retry({ schedule: backoff, times: 2, while: isTransient })
        )
    }).pipe(Effect.withExecutionPlan(plan), Effect.timeout(deadline))
}

const isTransient = (error: Provider.Failure | CircuitBreaker.CircuitBreakerError | Cause.TimeoutError): boolean =>
  error._tag === "RateLimited" ||
  error._tag === "TimeoutError" ||
  (error._tag === "APIError" && ["Overloaded", "ServerError", "Network"].includes(error.reason))
