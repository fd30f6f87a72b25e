/**
 * The providers that all figures are measured on: as fast as an upstream can be that still is asynchronous.
 */
import * as LlmRequest from "@llm-resilience/core/LlmRequest"
import * as LlmResponse from "@llm-resilience/core/LlmResponse"
import * as Provider from "@llm-resilience/core/Provider"
import * as ProviderError from "@llm-resilience/core/ProviderError"
import * as Effect from "effect/Effect"
import * as Stream from "effect/Stream"

export const request = LlmRequest.make({ prompt: "What is a circuit breaker?" })

export const requestWithDeadline = LlmRequest.make({ prompt: "What is a circuit breaker?", deadline: "20 seconds" })

/** Chunks of {@link healthy}'s stream: 500, all but the last with one text delta. */
export const chunks = 500

/** Answers at once, through a promise. */
export const healthy = (id: string): Provider.Provider =>
  Provider.make({
    id,
    model: "canned",
    generate: () => Effect.promise(() => answered),
    stream: () =>
      Stream.fromPull(
        Effect.sync(() => {
          let sent = 0
          return Effect.suspend(() => tokens[sent++] ?? finish)
        })
      )
  })

const answered = Promise.resolve({ content: LlmResponse.textContent("A switch that opens when calls keep failing.") })

const chunkOf = (part: LlmResponse.LlmStreamPart): Effect.Effect<[LlmResponse.LlmStreamPart]> => {
  const arrived = Promise.resolve<[LlmResponse.LlmStreamPart]>([part])
  return Effect.promise(() => arrived)
}

// Every token is another one: an answer that repeats itself is stopped by the guard.
const tokens = Array.from({ length: chunks - 1 }, (_, index) =>
  chunkOf({ type: "text-delta", id: "0", delta: `token${(index * 7919) % 1000} ` })
)

const finish = chunkOf({ type: "finish", reason: "stop", usage: LlmResponse.unknownUsage })

/** Fails at once with what opens a circuit. */
export const broken = (id: string): Provider.Provider => {
  const error = new ProviderError.APIError({ provider: id, reason: "ServerError", description: "500" })
  return Provider.make({ id, model: "canned", generate: () => Effect.fail(error) })
}
