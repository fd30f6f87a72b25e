import { assert, describe, it } from "@effect/vitest"
import { LlmRequest, LlmResponse, Provider } from "@llm-resilience/core"
import { Effect, Stream } from "effect"

const request = LlmRequest.make({ prompt: "Hi" })

describe("A model that cannot stream", () => {
  const model = (streaming: boolean | undefined) =>
    Provider.make({
      id: "m",
      model: "m",
      capabilities: { streaming },
      generate: () => Effect.succeed({ content: LlmResponse.textContent("whole") }),
      stream: () =>
        Stream.fromIterable([
          { type: "text-delta", id: "0", delta: "streamed" },
          { type: "finish", reason: "stop", usage: LlmResponse.unknownUsage }
        ] as const)
    })

  it.effect("is asked for the whole answer, which is replayed", () =>
    Effect.gen(function* () {
      for (const [streaming, expected] of [
        [false, "whole"],
        [true, "streamed"],
        [undefined, "streamed"]
      ] as const) {
        const parts = yield* Stream.runCollect(model(streaming).stream(request))

        assert.deepInclude(LlmResponse.collect(parts)[0], { type: "text", text: expected })
        assert.strictEqual(parts.at(-1)?.type, "finish")
      }
    })
  )
})
