/**
 * This library: the standard policy, two steps, and the limits that everybody has.
 */
import * as LlmResilience from "@llm-resilience/core/LlmResilience"
import * as OpenAiCompatible from "@llm-resilience/providers/OpenAiCompatible"
import * as Effect from "effect/Effect"
import * as FetchHttpClient from "effect/http/FetchHttpClient"
import * as Layer from "effect/Layer"
import * as ManagedRuntime from "effect/ManagedRuntime"
import type { Client, Limits, MakeClient, Upstreams } from "../Client.ts"
import { reading } from "./reading.ts"

export const make: MakeClient = (upstreams, limits) => client(upstreams, limits)

/** The same with whatever else is asked for. */
export const client = (
  upstreams: Upstreams,
  limits: Limits,
  options?: Pick<LlmResilience.Options, "health">
): Client => {
  const step = (id: string, baseUrl: string) => ({
    provider: OpenAiCompatible.layer({ id, model: "gpt-5", baseUrl, capabilities: { prefill: true } })
  })
  const runtime = ManagedRuntime.make(
    LlmResilience.layer({
      ...options,
      deadline: limits.deadlineMillis,
      policy: LlmResilience.standard({ timeouts: { attempt: limits.attemptMillis, idle: limits.idleMillis } }),
      steps: [step("primary", upstreams.primary), step("backup", upstreams.backup)]
    }).pipe(Layer.provide(FetchHttpClient.layer))
  )
  return {
    ask: (question, signal) =>
      runtime.runPromise(
        Effect.map(LlmResilience.generate({ prompt: question }), ({ finishReason, text }) => ({ text, finishReason })),
        { signal }
      ),
    stream: (question, signal, onText) =>
      runtime.runPromise(reading(LlmResilience.stream({ prompt: question }), onText), { signal })
  }
}
