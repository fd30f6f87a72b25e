/**
 * Asks a provider for its availability now.
 */
import type { LlmRequest, Provider } from "@llm-resilience/core"
import { Clock, Effect } from "effect"

export const availabilityOf = (self: Provider.Provider, request: LlmRequest.LlmRequest) =>
  Clock.clockWith((clock) =>
    Effect.succeed(self.availability(request, Number(clock.monotonicTimeNanosUnsafe()) / 1_000_000))
  )
