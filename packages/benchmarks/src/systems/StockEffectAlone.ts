/**
 * Stock Effect's plan, breaker, retry and timeouts, without a wire.
 */
import * as LlmRequest from "@llm-resilience/core/LlmRequest"
import * as Provider from "@llm-resilience/core/Provider"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as ExecutionPlan from "effect/ExecutionPlan"
import * as ManagedRuntime from "effect/ManagedRuntime"
import type { MakeClient } from "../Client.ts"
import { healthy } from "../Upstreams.ts"
import { whole } from "./Nothing.ts"
import { asking, breakers } from "./StockEffect.ts"

export const make: MakeClient = (_, limits) => {
  const runtime = ManagedRuntime.make(breakers)
  const plan = ExecutionPlan.make(
    { provide: Context.make(Provider.Provider, healthy("primary")) },
    { provide: Context.make(Provider.Provider, healthy("backup")) }
  )
  const ask = asking(plan, limits)
  return whole((question, signal) =>
    runtime.runPromise(
      Effect.map(ask(LlmRequest.make({ prompt: question })), ({ text }) => text),
      { signal }
    )
  )
}
