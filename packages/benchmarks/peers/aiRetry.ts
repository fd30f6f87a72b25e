/**
 * The AI SDK with ai-retry, around the call, because its documentation says that only there a timeout of a stream can be recovered.
 *
 * A whole answer gets the time of one attempt (`totalMs`): each retry is a new call with a new clock. The deadline is in the signal.
 */
import { experimental_retryableGenerateText as retryableGenerateText } from "ai-retry/generate-text"
import * as Whole from "ai-retry/generate-text/conditions"
import { experimental_retryableStreamText as retryableStreamText } from "ai-retry/stream-text"
import * as Streamed from "ai-retry/stream-text/conditions"
import type { MakeClient } from "../src/Client.ts"
import { modelOf, read } from "./aiSdkCalls.ts"

export const make: MakeClient = (upstreams, limits) => {
  const primary = modelOf(upstreams.primary, "primary")
  const backup = modelOf(upstreams.backup, "backup")
  return {
    ask: async (prompt, abortSignal) => {
      const { finishReason, text } = await retryableGenerateText({
        model: primary,
        prompt,
        abortSignal,
        maxRetries: 0,
        timeout: { totalMs: limits.attemptMillis },
        retry: [
          Whole.timeout().switch({ model: backup, timeout: limits.attemptMillis }),
          Whole.httpStatus(429, 529, "overloaded").switch({ model: backup }),
          Whole.finishReason("content-filter").switch({ model: backup }),
          Whole.error.isRetryable(true).retry({ delay: 1000, backoffFactor: 2 }),
          backup
        ]
      })
      return { text, finishReason }
    },
    stream: async (prompt, abortSignal, onText) => {
      const stream = await retryableStreamText({
        model: primary,
        prompt,
        abortSignal,
        maxRetries: 0,
        onError: () => {},
        timeout: { firstChunkMs: limits.attemptMillis, chunkMs: limits.idleMillis },
        retry: [
          Streamed.timeout().switch({ model: backup, timeout: limits.deadlineMillis }),
          Streamed.httpStatus(429, 529, "overloaded").switch({ model: backup }),
          Streamed.finishReason("content-filter").switch({ model: backup }),
          Streamed.error.isRetryable(true).retry({ delay: 1000, backoffFactor: 2 }),
          backup
        ]
      })
      return await read(stream, onText)
    }
  }
}
