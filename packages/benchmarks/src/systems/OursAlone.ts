/**
 * The standard policy and two steps, without a wire: the upstream is a promise that is resolved already.
 */
import * as LlmResilience from "@llm-resilience/core/LlmResilience"
import * as Provider from "@llm-resilience/core/Provider"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as ManagedRuntime from "effect/ManagedRuntime"
import type { MakeClient } from "../Client.ts"
import { healthy } from "../Upstreams.ts"
import { whole } from "./Nothing.ts"

export const make: MakeClient = (_, limits) => {
  const step = (id: string) => ({ provider: Layer.succeed(Provider.Provider, healthy(id)) })
  const runtime = ManagedRuntime.make(
    LlmResilience.layer({
      deadline: limits.deadlineMillis,
      policy: LlmResilience.standard({ timeouts: { attempt: limits.attemptMillis, idle: limits.idleMillis } }),
      steps: [step("primary"), step("backup")]
    })
  )
  return whole((prompt, signal) =>
    runtime.runPromise(
      Effect.map(LlmResilience.generate({ prompt }), ({ text }) => text),
      { signal }
    )
  )
}
