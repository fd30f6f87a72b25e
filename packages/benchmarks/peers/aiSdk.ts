/**
 * The AI SDK alone: its own retries (two, the default) and its own timeouts; it has no fallback.
 */
import type { MakeClient } from "../src/Client.ts"
import { call, modelOf } from "./aiSdkCalls.ts"

export const make: MakeClient = (upstreams, limits) => call(() => modelOf(upstreams.primary, "primary"), limits)
