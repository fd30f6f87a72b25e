/**
 * Streamed answers: the full chain, for each chunk, up to the first part, and what stays behind.
 */
import * as LlmResilience from "@llm-resilience/core/LlmResilience"
import * as Effect from "effect/Effect"
import * as Stream from "effect/Stream"
import type { Figure } from "./Measure.ts"
import { chunks, healthy, request, requestWithDeadline } from "./Upstreams.ts"

export const figures = Effect.gen(function* () {
  const provider = healthy("primary")
  const chain = yield* LlmResilience.make({ steps: [{ provider }, { provider: healthy("backup") }] })
  const whole = () => Stream.runDrain(chain.stream(requestWithDeadline))

  return [
    {
      name: "chunk.cpu",
      about: `a chunk of a stream of ${chunks} through the full chain, minus bare`,
      goal: 2,
      of: whole,
      minus: () => Stream.runDrain(provider.stream(request)),
      per: chunks
    },
    {
      name: "first.cpu",
      about: "opening a stream, its first part, and leaving, minus bare",
      of: () => Stream.runHead(chain.stream(requestWithDeadline)),
      minus: () => Stream.runHead(provider.stream(request))
    },
    {
      name: "retained.stream.bytes",
      about: "heap that stays behind for each stream that is left after ten parts",
      goal: 0,
      retainedBy: () => Stream.runDrain(Stream.take(chain.stream(requestWithDeadline), 10)),
      calls: 6_000
    }
  ] satisfies ReadonlyArray<Figure>
})
