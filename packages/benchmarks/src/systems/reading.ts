/**
 * Reads a stream of ours to its end, as a program would that shows it.
 */
import type * as LlmResponse from "@llm-resilience/core/LlmResponse"
import * as Effect from "effect/Effect"
import * as Stream from "effect/Stream"

/** Tells the text as it arrives, and gives all of it with the reason of its end. */
export const reading = <E, R>(
  stream: Stream.Stream<LlmResponse.LlmStreamPart, E, R>,
  onText: (text: string) => void
): Effect.Effect<{ readonly text: string; readonly finishReason: string | undefined }, E, R> =>
  Effect.suspend(() => {
    let text = ""
    let finishReason: string | undefined
    return stream.pipe(
      Stream.runForEach((part) =>
        Effect.sync(() => {
          if (part.type === "text-delta") {
            text += part.delta
            onText(part.delta)
          } else if (part.type === "finish") {
            finishReason = part.reason
          }
        })
      ),
      Effect.map(() => ({ text, finishReason }))
    )
  })
