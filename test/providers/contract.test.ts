import { LLMock } from "@copilotkit/aimock"
import { assert, describe, it } from "@effect/vitest"
import { LlmRequest, LlmResponse, type Provider, ProviderError } from "@llm-resilience/core"
import { Duration, Effect, Redacted, Schema, Stream } from "effect"
import { Tool } from "effect/ai"
import { FetchHttpClient } from "effect/http"
import { adapters, type Protocol, protocols } from "../support/adapters.ts"

// A mock of the providers that somebody else wrote, in the role of the other side: what it understands and says, we say and understand.

const paths: { readonly [P in Protocol]: string } = {
  openai: "/v1",
  "openai-responses": "/v1",
  anthropic: "/v1",
  bedrock: "",
  gemini: "/v1beta"
}

const models: { readonly [P in Protocol]: string } = {
  openai: "gpt-4o",
  "openai-responses": "gpt-5",
  anthropic: "claude-sonnet-4-5",
  bedrock: "anthropic.claude-sonnet-4-5-20250929-v1:0",
  gemini: "gemini-2.5-flash"
}

const setup = (protocol: Protocol, prepare: (mock: LLMock) => void) =>
  Effect.gen(function* () {
    const mock = yield* Effect.acquireRelease(
      Effect.promise(async () => {
        const mock = new LLMock({ port: 0, logLevel: "silent" })
        prepare(mock)
        await mock.start()
        return mock
      }),
      (mock) => Effect.promise(() => mock.stop())
    )
    const provider = yield* Effect.provide(
      adapters[protocol]({
        model: models[protocol],
        apiKey: Redacted.make("mock"),
        baseUrl: `${mock.url}${paths[protocol]}`
      }),
      FetchHttpClient.layer
    )
    return { mock, provider }
  })

const collected = (provider: Provider.Provider, request: LlmRequest.LlmRequest) =>
  Effect.map(Stream.runCollect(provider.stream(request)), (parts) =>
    LlmResponse.make({ content: LlmResponse.collect(parts), served: LlmResponse.servedBy(provider) })
  )

const ways = (provider: Provider.Provider) =>
  [
    ["whole", (request: LlmRequest.LlmRequest) => provider.generate(request)],
    ["streamed", (request: LlmRequest.LlmRequest) => collected(provider, request)]
  ] as const

const weather = Tool.make("get_weather", {
  description: "Tells the weather",
  parameters: Schema.Struct({ city: Schema.String })
})

describe.each(protocols)("The contract of %s", (protocol) => {
  it.live("a conversation is answered", () =>
    Effect.gen(function* () {
      const text = "Grüße aus Zürich 👋 and all the best"
      const { provider } = yield* setup(protocol, (mock) => {
        mock.onMessage("hello", { content: text })
      })
      const request = LlmRequest.make({
        prompt: [
          { role: "system", content: "Be kind." },
          { role: "user", content: "hi" },
          { role: "assistant", content: "Hi." },
          { role: "user", content: "hello" }
        ],
        settings: { maxOutputTokens: 100, temperature: 0.5 }
      })

      for (const [way, ask] of ways(provider)) {
        const answer = yield* ask(request)

        assert.strictEqual(answer.text, text, way)
        assert.strictEqual(answer.finishReason, "stop", way)
      }
    })
  )

  it.live("a tool is called, and its result understood", () =>
    Effect.gen(function* () {
      const { provider } = yield* setup(protocol, (mock) => {
        mock.on({ userMessage: "weather", hasToolResult: true }, { content: "It is 21 degrees." })
        mock.on(
          { userMessage: "weather", hasToolResult: false },
          { toolCalls: [{ name: "get_weather", arguments: '{"city":"Rome"}' }] }
        )
      })
      const question = [{ role: "user", content: "weather" }] as const

      for (const [way, ask] of ways(provider)) {
        const called = yield* ask(LlmRequest.make({ prompt: [...question], tools: [weather] }))
        const [call] = called.toolCalls
        assert.deepInclude(call, { name: "get_weather", params: { city: "Rome" } }, way)
        assert.strictEqual(called.finishReason, "tool-calls", way)

        const told = yield* ask(
          LlmRequest.make({
            prompt: [
              ...question,
              {
                role: "assistant",
                content: [{ type: "tool-call", name: "get_weather", id: call?.id ?? "", params: call?.params }]
              },
              {
                role: "tool",
                content: [
                  {
                    type: "tool-result",
                    name: "get_weather",
                    id: call?.id ?? "",
                    isFailure: false,
                    result: { degrees: 21 }
                  }
                ]
              }
            ],
            tools: [weather]
          })
        )
        assert.strictEqual(told.text, "It is 21 degrees.", way)
      }
    })
  )

  it.live("errors are what they are", () =>
    Effect.gen(function* () {
      const { provider } = yield* setup(protocol, (mock) => {
        mock.onMessage("limited", {
          error: { message: "Rate limit reached", type: "rate_limit_error", code: "rate_limit_exceeded" },
          status: 429,
          retryAfter: 7
        })
        mock.onMessage("broken", { error: { message: "Internal error", type: "server_error" }, status: 500 })
      })

      for (const [way, ask] of ways(provider)) {
        const limited = yield* Effect.flip(ask(LlmRequest.make({ prompt: "limited" })))
        const broken = yield* Effect.flip(ask(LlmRequest.make({ prompt: "broken" })))

        assert(ProviderError.isProviderError(limited) && ProviderError.isProviderError(broken))
        assert.strictEqual(ProviderError.kind(limited), "RateLimited", way)
        assert.deepStrictEqual(ProviderError.retryAfter(limited), Duration.seconds(7), way)
        assert.strictEqual(ProviderError.kind(broken), "ServerError", way)
      }
    })
  )

  it.live("a stream that is cut is no answer", () =>
    Effect.gen(function* () {
      const { provider } = yield* setup(protocol, (mock) => {
        mock.onMessage("hello", { content: "a long answer of many words ".repeat(20) }, { truncateAfterChunks: 4 })
      })

      const error = yield* Effect.flip(Stream.runDrain(provider.stream(LlmRequest.make({ prompt: "hello" }))))

      assert(ProviderError.isProviderError(error))
      assert.include(["StreamCut", "Network"], ProviderError.kind(error))
    })
  )
})
