/**
 * This library with health checks: what a user pays for a primary that is noticed to be back before its circuit would let a call through.
 */
import type { MakeClient } from "../Client.ts"
import { client } from "./Ours.ts"

export const make: MakeClient = (upstreams, limits) => client(upstreams, limits, { health: {} })
