import { assert, describe, it } from "@effect/vitest"
import { LlmRequest } from "@llm-resilience/core"
import { Anthropic, Catalogue, OpenAiCompatible } from "@llm-resilience/providers"
import { Effect } from "effect"
import { FetchHttpClient } from "effect/http"
import { serve } from "./server.ts"

describe("Catalogue", () => {
  it.each([
    ["claude-haiku-4-5", "claude-haiku-4-5"],
    ["claude-haiku-4-5-20251001", "claude-haiku-4-5"],
    ["claude-haiku-4-5@20251001", "claude-haiku-4-5"],
    ["anthropic/claude-haiku-4-5", "claude-haiku-4-5"],
    ["us.anthropic.claude-haiku-4-5-20251001-v1:0", "claude-haiku-4-5"],
    ["anthropic.claude-3-5-sonnet-20241022-v2:0", "claude-3-5-sonnet"],
    ["arn:aws:bedrock:us-east-1:1:inference-profile/eu.amazon.nova-pro-v1:0", "nova-pro"],
    ["amazon.nova-pro-v1:0:300k", "nova-pro"],
    ["claude-sonnet-4-0", "claude-sonnet-4"],
    ["gpt-4o-2024-08-06", "gpt-4o"],
    ["GPT-4o", "gpt-4o"],
    ["models/gemini-2.5-pro", "gemini-2.5-pro"]
  ])("knows %s", (name, model) => {
    assert.isDefined(Catalogue.find(name))
    assert.strictEqual(Catalogue.find(name), Catalogue.models.get(model))
  })

  it.each(["", "my-deployment", "gpt-4o-audio-preview", "ft:gpt-4o-2024-08-06:acme::1", "openai/gpt-4o:free"])(
    "does not pretend to know %j",
    (name) => {
      assert.isUndefined(Catalogue.find(name))
    }
  )

  it("has numbers that can be", () => {
    for (const [model, { contextWindow, maxOutputTokens, price }] of Catalogue.models) {
      assert.isTrue(contextWindow === undefined || contextWindow >= 1024, model)
      assert.isTrue(maxOutputTokens === undefined || maxOutputTokens <= (contextWindow ?? Infinity), model)
      assert.isDefined(price, model)
      assert.isAtLeast(price?.outputPerMillion ?? 0, price?.inputPerMillion ?? Infinity, model)
      assert.isAtMost(price?.cachedInputPerMillion ?? 0, price?.inputPerMillion ?? 0, model)
    }
  })

  it.effect("is what an adapter starts from, field by field", () =>
    Effect.gen(function* () {
      const known = yield* Anthropic.make({ model: "claude-3-haiku-20240307" })
      const own = yield* Anthropic.make({
        model: "claude-3-haiku-20240307",
        capabilities: { contextWindow: 1000, price: undefined }
      })

      assert.deepInclude(known.capabilities, { contextWindow: 200_000, maxOutputTokens: 4096, prefill: true })
      assert.deepInclude(own.capabilities, { contextWindow: 1000, maxOutputTokens: 4096, price: undefined })
    }).pipe(Effect.provide(FetchHttpClient.layer))
  )

  it.live("keeps a request within what the model can write", () =>
    Effect.gen(function* () {
      const server = yield* serve({
        body: JSON.stringify({ choices: [{ message: { content: "Hello" }, finish_reason: "stop" }] })
      })
      const provider = yield* OpenAiCompatible.make({ model: "gpt-4-turbo", baseUrl: server.baseUrl })
      for (const maxOutputTokens of [100, 100_000]) {
        yield* provider.generate(LlmRequest.make({ prompt: "Hi", settings: { maxOutputTokens } }))
      }

      assert.deepInclude(server.received[0]?.body, { max_tokens: 100 })
      assert.deepInclude(server.received[1]?.body, { max_tokens: 4096 })
    }).pipe(Effect.provide(FetchHttpClient.layer))
  )
})
