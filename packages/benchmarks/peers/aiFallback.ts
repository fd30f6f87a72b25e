/**
 * The AI SDK with ai-fallback, with the options of the example in its documentation.
 */
import { createFallback } from "ai-fallback"
import type { MakeClient } from "../src/Client.ts"
import { call, modelOf } from "./aiSdkCalls.ts"

export const make: MakeClient = (upstreams, limits) =>
  call(
    () =>
      createFallback({
        models: [modelOf(upstreams.primary, "primary"), modelOf(upstreams.backup, "backup")],
        onError: () => {},
        modelResetInterval: 60_000
      }),
    limits
  )
