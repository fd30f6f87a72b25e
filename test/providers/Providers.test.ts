import { assert, describe, it } from "@effect/vitest"
import { LlmRequest, LlmResilience } from "@llm-resilience/core"
import type { ResilienceConfig } from "@llm-resilience/core"
import { Providers } from "@llm-resilience/providers"
import { Fault, Upstream } from "@llm-resilience/testing"
import { ConfigProvider, Effect, Layer } from "effect"
import { FetchHttpClient, HttpClient } from "effect/http"
import { serve } from "./server.ts"

const environment = (env: { readonly [name: string]: string }) => ConfigProvider.layer(ConfigProvider.fromEnv({ env }))

/** Builds the provider of a step, and gives the request that it would send, without sending it. */
const addressed = (
  step: Partial<ResilienceConfig.Step> & { readonly provider: string },
  env: { readonly [name: string]: string }
) =>
  Effect.gen(function* () {
    const seen: Array<{ readonly url: string; readonly headers: { readonly [name: string]: string } }> = []
    const client = HttpClient.make((request, url) => {
      seen.push({ url: String(url), headers: { ...request.headers } })
      return Effect.never
    })
    const registry: { readonly [name: string]: Providers.Factory } = Providers.registry
    const factory = registry[step.provider]
    assert(factory !== undefined)
    const provider = yield* factory({ id: "step", model: "model-1", ...step }).pipe(
      Effect.provideService(HttpClient.HttpClient, client)
    )
    const fiber = yield* Effect.forkChild(provider.generate(LlmRequest.make({ prompt: "Hi" })))
    yield* Effect.yieldNow
    yield* Effect.yieldNow
    fiber.interruptUnsafe()
    return { provider, request: seen[0] }
  }).pipe(Effect.provide(environment(env)))

describe("Providers", () => {
  it.effect.each([
    ["openai", { OPENAI_API_KEY: "k" }, "https://api.openai.com/v1/chat/completions", "authorization", "Bearer k"],
    [
      "openrouter",
      { OPENROUTER_API_KEY: "k" },
      "https://openrouter.ai/api/v1/chat/completions",
      "authorization",
      "Bearer k"
    ],
    ["groq", { GROQ_API_KEY: "k" }, "https://api.groq.com/openai/v1/chat/completions", "authorization", "Bearer k"],
    ["ollama", {}, "http://localhost:11434/v1/chat/completions", "authorization", undefined],
    ["vllm", {}, "http://localhost:8000/v1/chat/completions", "authorization", undefined],
    [
      "deepseek",
      { DEEPSEEK_API_KEY: "k" },
      "https://api.deepseek.com/v1/chat/completions",
      "authorization",
      "Bearer k"
    ],
    ["mistral", { MISTRAL_API_KEY: "k" }, "https://api.mistral.ai/v1/chat/completions", "authorization", "Bearer k"],
    ["xai", { XAI_API_KEY: "k" }, "https://api.x.ai/v1/chat/completions", "authorization", "Bearer k"],
    ["openai-responses", { OPENAI_API_KEY: "k" }, "https://api.openai.com/v1/responses", "authorization", "Bearer k"],
    [
      "gemini",
      { GEMINI_API_KEY: "k" },
      "https://generativelanguage.googleapis.com/v1beta/models/model-1:generateContent",
      "x-goog-api-key",
      "k"
    ],
    [
      "bedrock",
      { AWS_BEARER_TOKEN_BEDROCK: "k", AWS_REGION: "eu-central-1" },
      "https://bedrock-runtime.eu-central-1.amazonaws.com/model/model-1/converse",
      "authorization",
      "Bearer k"
    ],
    ["anthropic", { ANTHROPIC_API_KEY: "k" }, "https://api.anthropic.com/v1/messages", "x-api-key", "k"],
    [
      "azure",
      { AZURE_OPENAI_API_KEY: "k", AZURE_OPENAI_ENDPOINT: "https://me.openai.azure.com/" },
      "https://me.openai.azure.com/openai/v1/chat/completions",
      "api-key",
      "k"
    ],
    [
      "openai-compatible",
      { OPENAI_BASE_URL: "http://host/v1/" },
      "http://host/v1/chat/completions",
      "authorization",
      undefined
    ]
  ] as const)("finds %s and its key", ([provider, env, url, header, value]) =>
    Effect.gen(function* () {
      const { provider: built, request } = yield* addressed({ provider }, env)

      assert.strictEqual(built.id, "step")
      assert.strictEqual(request?.url, url)
      assert.strictEqual(request?.headers[header], value)
    })
  )

  it.effect("lets the step replace the address and the variable", () =>
    Effect.gen(function* () {
      const { request } = yield* addressed(
        {
          provider: "azure",
          baseUrl: "https://me.openai.azure.com/openai/deployments/gpt?api-version=2024-10-21",
          apiKeyEnv: "MY_KEY"
        },
        { MY_KEY: "mine" }
      )

      assert.strictEqual(
        request?.url,
        "https://me.openai.azure.com/openai/deployments/gpt/chat/completions?api-version=2024-10-21"
      )
      assert.strictEqual(request?.headers["api-key"], "mine")
    })
  )

  it.live("gives a server of your own the settings of the step", () =>
    Effect.gen(function* () {
      const server = yield* serve({
        body: JSON.stringify({ choices: [{ message: { content: "Hello" }, finish_reason: "stop" }] })
      })
      const factory = Providers.openAiCompatible({ baseUrl: server.baseUrl, apiKeyEnv: "MY_KEY" })

      const provider = yield* Effect.provide(
        factory({ id: "mine", provider: "mine", model: "m", maxOutputTokens: 7, temperature: 0 }),
        [FetchHttpClient.layer, environment({ MY_KEY: "k" })]
      )
      const response = yield* provider.generate(LlmRequest.make({ prompt: "Hi" }))

      assert.strictEqual(response.text, "Hello")
      assert.deepInclude(server.received[0]?.body, { max_tokens: 7, temperature: 0 })
    })
  )

  it.live("makes the steps of a chain that is written down", () =>
    Effect.gen(function* () {
      const upstream = yield* Upstream.make({ answer: (question) => `${question.protocol} here`, apiKey: "k" })
      yield* upstream.setFault((index) => (index === 0 ? Fault.status(401) : undefined))
      const layer = LlmResilience.layerConfig({
        config: `
fallback_chain:
  - provider: openai
    model: gpt-5
    base_url: ${upstream.baseUrl}
  - provider: anthropic
    model: claude-sonnet-4-5
    base_url: ${upstream.baseUrl}
`,
        providers: Providers.registry
      }).pipe(Layer.provide([FetchHttpClient.layer, environment({ OPENAI_API_KEY: "k", ANTHROPIC_API_KEY: "k" })]))

      const response = yield* Effect.provide(
        Effect.flatMap(LlmResilience.LlmResilience, (llm) => llm.generate(LlmRequest.make({ prompt: "Hi" }))),
        layer
      )

      assert.strictEqual(response.text, "anthropic here")
      assert.strictEqual(response.served.attempts.length, 1)
    })
  )

  it.live("makes steps of every protocol, and an environment of its own for one of them", () =>
    Effect.gen(function* () {
      const upstream = yield* Upstream.make({ answer: (question) => `${question.protocol} here`, apiKey: "k" })
      const names = ["openai", "openai-responses", "anthropic", "bedrock", "gemini", "frankfurt"]
      const keys = { OPENAI_API_KEY: "k", ANTHROPIC_API_KEY: "k", GEMINI_API_KEY: "k", AWS_BEARER_TOKEN_BEDROCK: "k" }
      for (const name of names) {
        const layer = LlmResilience.layerConfig({
          config: { fallbackChain: [{ provider: name, model: "model-1", baseUrl: upstream.baseUrl }] },
          providers: { ...Providers.registry, frankfurt: Providers.bedrock({ region: "eu-central-1" }) }
        }).pipe(Layer.provide([FetchHttpClient.layer, environment({ ...keys, AWS_REGION: "us-east-1" })]))

        const { served, text } = yield* Effect.provide(LlmResilience.generate({ prompt: "Hi" }), layer)

        assert.strictEqual(text, `${name === "frankfurt" ? "bedrock" : name} here`)
        assert.strictEqual(served.provider, name)
      }
    })
  )

  it.effect.each([
    ["openai", {}, "OPENAI_API_KEY"],
    ["openai", { OPENAI_API_KEY: "" }, "OPENAI_API_KEY"],
    ["anthropic", {}, "ANTHROPIC_API_KEY"],
    ["azure", { AZURE_OPENAI_API_KEY: "k" }, "AZURE_OPENAI_ENDPOINT"],
    ["openai-compatible", {}, "OPENAI_BASE_URL"],
    ["openai-compatible", { OPENAI_BASE_URL: "localhost" }, "OPENAI_BASE_URL"]
  ] as const)("says which variable %s misses", ([provider, env, name]) =>
    Effect.gen(function* () {
      const error = yield* Effect.flip(addressed({ provider }, env))

      assert.strictEqual(error._tag, "ConfigError")
      assert.include(error.message, name)
    })
  )
})
