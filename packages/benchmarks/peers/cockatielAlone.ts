/**
 * cockatiel's fallback, retry, breaker and timeout, without a wire.
 */
import type { MakeClient } from "../src/Client.ts"
import { whole } from "../src/systems/Nothing.ts"
import { guarding } from "./cockatiel.ts"

const answered = Promise.resolve("A switch that opens when calls keep failing.")

export const make: MakeClient = (upstreams, limits) => {
  const guarded = guarding(upstreams, limits)
  return whole((_, signal) => guarded(() => answered, signal))
}
