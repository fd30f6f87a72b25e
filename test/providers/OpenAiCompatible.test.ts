import { assert, describe, it } from "@effect/vitest"
import { NodeHttpClient } from "@effect/platform-node"
import { LlmRequest, LlmResponse, Provider, ProviderError } from "@llm-resilience/core"
import { OpenAiCompatible } from "@llm-resilience/providers"
import { Cause, Config, ConfigProvider, Duration, Effect, Exit, Layer, Redacted, Schema, Stream, Tracer } from "effect"
import { Tool } from "effect/ai"
import { FetchHttpClient, HttpClient, HttpClientResponse } from "effect/http"
import { serve, sse } from "./server.ts"
import { keptSpans } from "../support/keptSpans.ts"

const hi = LlmRequest.make({ prompt: "Hi" })

const model = (options: Partial<OpenAiCompatible.Options>) =>
  Effect.provide(OpenAiCompatible.make({ model: "model-1", ...options }), FetchHttpClient.layer)

const chunk = (delta: object, finish: string | null = null, rest: object = {}) => ({
  id: "chatcmpl-1",
  object: "chat.completion.chunk",
  created: 1_700_000_000,
  model: "model-1-2026",
  choices: [{ index: 0, delta, finish_reason: finish }],
  ...rest
})

const usage = { prompt_tokens: 5, completion_tokens: 7 }

const completion = (message: object, finish: unknown = "stop", rest: object = {}) => ({
  id: "chatcmpl-1",
  object: "chat.completion",
  created: 1_700_000_000,
  model: "model-1-2026",
  choices: [{ index: 0, message: { role: "assistant", ...message }, finish_reason: finish }],
  usage,
  ...rest
})

/** Streams from a server that sends these events, and gives the parts and the error at the end, if there is one. */
const streamed = (body: string | ReadonlyArray<string | Uint8Array>, options: Partial<OpenAiCompatible.Options> = {}) =>
  Effect.gen(function* () {
    const server = yield* serve({ headers: { "content-type": "text/event-stream" }, body })
    const provider = yield* model({ baseUrl: server.baseUrl, ...options })
    const parts: Array<LlmResponse.LlmStreamPart> = []
    const error = yield* Effect.flip(
      Effect.andThen(
        Stream.runForEach(provider.stream(hi), (part) => Effect.sync(() => parts.push(part))),
        Effect.fail("complete" as const)
      )
    )
    return { parts, error }
  })

const generated = (body: unknown) =>
  Effect.gen(function* () {
    const server = yield* serve({ body: typeof body === "string" ? body : JSON.stringify(body) })
    const provider = yield* model({ baseUrl: server.baseUrl })
    return yield* provider.generate(hi)
  })

const reason = (error: unknown) =>
  ProviderError.isProviderError(error) ? ProviderError.kind(error) : `not a provider error: ${String(error)}`

const textOf = (parts: ReadonlyArray<LlmResponse.LlmStreamPart>) =>
  parts.reduce((text, part) => (part.type === "text-delta" ? text + part.delta : text), "")

/** The body that the server gets for a request. */
const sent = (request: LlmRequest.Input, options: Partial<OpenAiCompatible.Options> = {}) =>
  Effect.gen(function* () {
    const server = yield* serve({ body: JSON.stringify(completion({ content: "Hello" })) })
    const provider = yield* model({ baseUrl: server.baseUrl, ...options })
    yield* provider.generate(LlmRequest.make(request))
    const received = server.received[0]
    assert(received !== undefined)
    return received
  })

const weather = Tool.make("weather", {
  description: "Tells the weather",
  parameters: Schema.Struct({ city: Schema.String })
})

interface Tree {
  readonly name: string
  readonly children: ReadonlyArray<Tree>
}

const Node = Schema.Struct({
  name: Schema.String,
  children: Schema.Array(Schema.suspend((): Schema.Codec<Tree> => Node))
}).annotate({ identifier: "Node" })

interface Sent {
  readonly tool_calls?: ReadonlyArray<{ readonly id: string; readonly [field: string]: unknown }>
  readonly [field: string]: unknown
}

describe("OpenAiCompatible", () => {
  describe("asks", () => {
    it.live("with the model, the messages and the settings", () =>
      Effect.gen(function* () {
        const { body, url } = yield* sent({
          prompt: [
            { role: "system", content: "Be brief." },
            { role: "system", content: "Be kind." },
            { role: "user", content: "Hi" }
          ],
          settings: { maxOutputTokens: 100, temperature: 0.5, topP: 0.9, stop: ["END"], seed: 1 }
        })

        assert.strictEqual(url, "/v1/chat/completions")
        assert.deepStrictEqual(body, {
          model: "model-1",
          messages: [
            { role: "system", content: "Be brief.\n\nBe kind." },
            { role: "user", content: "Hi" }
          ],
          max_tokens: 100,
          temperature: 0.5,
          top_p: 0.9,
          stop: ["END"],
          seed: 1,
          stream: false
        })
      })
    )

    it.live("with the defaults of the provider below the settings of the request", () =>
      Effect.gen(function* () {
        const { body } = yield* sent(
          {
            prompt: "Hi",
            settings: { temperature: 1, providerOptions: { openai: { user: "u" }, mine: { top_k: 3 } } }
          },
          {
            id: "mine",
            maxTokensField: "max_completion_tokens",
            settings: { temperature: 0, maxOutputTokens: 9, providerOptions: { mine: { min_p: 1, top_k: 1 } } }
          }
        )

        assert.deepInclude(body, { temperature: 1, max_completion_tokens: 9, user: "u", top_k: 3, min_p: 1 })
      })
    )

    it.live("for a stream with its usage", () =>
      Effect.gen(function* () {
        const server = yield* serve({ body: sse(chunk({ content: "Hello" }, "stop")) })
        const provider = yield* model({ baseUrl: server.baseUrl })

        yield* Stream.runDrain(provider.stream(hi))

        assert.deepInclude(server.received[0]?.body, { stream: true, stream_options: { include_usage: true } })
      })
    )

    it.live("with the key as a bearer token", () =>
      Effect.gen(function* () {
        const { headers } = yield* sent(
          { prompt: "Hi" },
          { apiKey: Redacted.make("secret"), headers: { "x-title": "app" } }
        )

        assert.strictEqual(headers["authorization"], "Bearer secret")
        assert.strictEqual(headers["x-title"], "app")
      })
    )

    it.live("as Azure wants to be asked", () =>
      Effect.gen(function* () {
        const { headers, url } = yield* sent(
          { prompt: "Hi" },
          { apiKey: Redacted.make("secret"), authentication: "api-key", query: { "api-version": "2024-10-21" } }
        )

        assert.strictEqual(headers["api-key"], "secret")
        assert.isUndefined(headers["authorization"])
        assert.strictEqual(url, "/v1/chat/completions?api-version=2024-10-21")
      })
    )

    it.live("with images, sounds and files", () =>
      Effect.gen(function* () {
        const { body } = yield* sent({
          prompt: [
            {
              role: "user",
              content: [
                { type: "text", text: "Look" },
                { type: "file", mediaType: "image/png", data: new Uint8Array([1, 2, 3]) },
                { type: "file", mediaType: "image/*", data: new URL("https://example.com/a.png") },
                { type: "file", mediaType: "audio/wav", data: "AQID" },
                { type: "file", mediaType: "application/pdf", fileName: "a.pdf", data: "AQID" }
              ]
            }
          ]
        })

        assert.deepInclude(body, {
          messages: [
            {
              role: "user",
              content: [
                { type: "text", text: "Look" },
                { type: "image_url", image_url: { url: "data:image/png;base64,AQID" } },
                { type: "image_url", image_url: { url: "https://example.com/a.png" } },
                { type: "input_audio", input_audio: { data: "AQID", format: "wav" } },
                { type: "file", file: { filename: "a.pdf", file_data: "data:application/pdf;base64,AQID" } }
              ]
            }
          ]
        })
      })
    )

    it.live("with tools and the choice among them", () =>
      Effect.gen(function* () {
        const definition = {
          type: "function",
          function: {
            name: "weather",
            description: "Tells the weather",
            parameters: {
              type: "object",
              properties: { city: { type: "string" } },
              required: ["city"],
              additionalProperties: false
            }
          }
        }
        const other = Tool.make("other")

        const free = yield* sent({ prompt: "Hi", tools: [weather] })
        const forced = yield* sent({ prompt: "Hi", tools: [weather, other], toolChoice: { tool: "weather" } })
        const some = yield* sent({
          prompt: "Hi",
          tools: [weather, other],
          toolChoice: { mode: "required", oneOf: ["weather"] }
        })

        assert.deepInclude(free.body, { tools: [definition], tool_choice: "auto" })
        assert.deepInclude(forced.body, { tool_choice: { type: "function", function: { name: "weather" } } })
        assert.deepInclude(some.body, { tools: [definition], tool_choice: "required" })
      })
    )

    it.live("with the turns of a tool loop, whoever made its ids", () =>
      Effect.gen(function* () {
        const id = "toolu:1/" + "x".repeat(60)

        const { body } = yield* sent({
          prompt: [
            { role: "user", content: "Weather?" },
            {
              role: "assistant",
              content: [
                { type: "reasoning", text: "Hm", options: { anthropic: { signature: "s" } } },
                { type: "text", text: "Let me see." },
                { type: "tool-call", id, name: "weather", params: { city: "Ulm" } },
                { type: "tool-call", id: "srv", name: "search", params: {}, providerExecuted: true }
              ]
            },
            {
              role: "tool",
              content: [{ type: "tool-result", id, name: "weather", isFailure: false, result: { c: 20 } }]
            }
          ]
        })

        const { messages } = body as { messages: ReadonlyArray<Sent> }
        const rewritten = messages[1]?.tool_calls?.[0]?.id ?? ""
        assert.match(rewritten, /^[a-zA-Z0-9_-]{1,40}$/)
        assert.deepStrictEqual(messages.slice(1), [
          {
            role: "assistant",
            content: "Let me see.",
            tool_calls: [
              { id: rewritten, type: "function", function: { name: "weather", arguments: '{"city":"Ulm"}' } }
            ]
          },
          { role: "tool", tool_call_id: rewritten, content: '{"c":20}' }
        ])
      })
    )

    it.live("for JSON, strictly where the schema allows it", () =>
      Effect.gen(function* () {
        const format = (schema: Schema.Top) =>
          sent({ prompt: "Hi", responseFormat: { type: "json", objectName: "city", schema } })

        const strict = yield* format(Schema.Struct({ name: Schema.String, size: Schema.NullOr(Schema.Number) }))
        const loose = yield* format(Schema.Struct({ name: Schema.optionalKey(Schema.String) }))
        const nullable = yield* format(Schema.Struct({ name: Schema.optional(Schema.String) }))
        const shared = yield* format(Node)

        assert.nestedInclude(strict.body, {
          "response_format.type": "json_schema",
          "response_format.json_schema.name": "city",
          "response_format.json_schema.strict": true
        })
        assert.nestedInclude(loose.body, { "response_format.json_schema.strict": false })
        assert.nestedInclude(nullable.body, {
          "response_format.json_schema.strict": true,
          "response_format.json_schema.schema.required[0]": "name"
        })
        assert.nestedInclude(shared.body, {
          "response_format.json_schema.strict": true,
          "response_format.json_schema.schema.type": "object",
          "response_format.json_schema.schema.properties.children.items.$ref": "#/$defs/Node"
        })
      })
    )
  })

  it.live("does not ask with what JSON cannot say", () =>
    Effect.gen(function* () {
      const provider = yield* model({ baseUrl: "http://127.0.0.1:9/v1" })
      const call = { type: "tool-call" as const, id: "a", name: "x", params: { big: 1n } }

      const error = yield* Effect.flip(
        provider.generate(LlmRequest.make({ prompt: [{ role: "assistant", content: [call] }] }))
      )

      assert.deepInclude(error, { reason: "InvalidRequest" })
    })
  )

  describe("reads a whole answer", () => {
    it.live("with reasoning, text, tool calls, usage and limits", () =>
      Effect.gen(function* () {
        const server = yield* serve({
          headers: { "x-ratelimit-remaining-requests": "3", "x-ratelimit-reset-requests": "2s" },
          body: JSON.stringify(
            completion(
              {
                reasoning_content: "Hm",
                content: "Hello",
                tool_calls: [
                  { id: "call_1", type: "function", function: { name: "weather", arguments: '{"city":"Ulm"}' } },
                  { id: "call_2", type: "function", function: { name: "time", arguments: "" } }
                ]
              },
              "tool_calls",
              {
                usage: {
                  ...usage,
                  prompt_tokens_details: { cached_tokens: 2 },
                  completion_tokens_details: { reasoning_tokens: 4 }
                }
              }
            )
          )
        })
        const provider = yield* model({ baseUrl: server.baseUrl })

        const response = yield* provider.generate(hi)

        assert.deepStrictEqual(response.content, [
          {
            type: "response-metadata",
            id: "chatcmpl-1",
            modelId: "model-1-2026",
            timestamp: "2023-11-14T22:13:20.000Z"
          },
          { type: "reasoning", text: "Hm" },
          { type: "text", text: "Hello" },
          { type: "tool-call", id: "call_1", name: "weather", params: { city: "Ulm" } },
          { type: "tool-call", id: "call_2", name: "time", params: {} },
          {
            type: "finish",
            reason: "tool-calls",
            usage: {
              inputTokens: { total: 5, uncached: 3, cacheRead: 2 },
              outputTokens: { total: 7, reasoning: 4, text: 3 }
            }
          }
        ])
        assert.deepStrictEqual(response.limits, { requests: { remaining: 3, reset: Duration.seconds(2) } })
      })
    )

    it.live("with nothing in it as an answer all the same", () =>
      Effect.gen(function* () {
        const response = yield* generated(completion({ content: null }))

        assert.strictEqual(response.text, "")
        assert.strictEqual(response.finishReason, "stop")
      })
    )

    it.live("that says more than we know", () =>
      Effect.gen(function* () {
        const response = yield* generated(
          completion(
            { content: [{ type: "text", text: "Hel" }, { type: "new" }, { type: "text", text: "lo" }] },
            "tired",
            {
              usage: { prompt_tokens: "many" },
              id: 7
            }
          )
        )

        assert.strictEqual(response.text, "Hello")
        assert.strictEqual(response.finishReason, "other")
        assert.deepStrictEqual(response.usage, LlmResponse.unknownUsage)
      })
    )

    it.live("that was cut by its budget without half of a tool call", () =>
      Effect.gen(function* () {
        const call = { id: "call_1", function: { name: "weather", arguments: '{"city":"U' } }
        const response = yield* generated(completion({ tool_calls: [call] }, "length"))
        const error = yield* Effect.flip(generated(completion({ tool_calls: [call] }, "tool_calls")))

        assert.deepStrictEqual(response.toolCalls, [])
        assert.strictEqual(reason(error), "InvalidResponse")
      })
    )

    it.live.each([
      ["an error", { error: { message: "Slow down", code: 429 } }, "RateLimited"],
      ["an error as a string", { error: "model is overloaded" }, "Overloaded"],
      ["nothing", "", "InvalidResponse"],
      ["a page", "<html><title>Sign in</title></html>", "InvalidResponse"],
      ["another shape", { choices: [] }, "InvalidResponse"],
      ["half of it", JSON.stringify(completion({ content: "Hello" })).slice(0, 80), "InvalidResponse"],
      ["no finish reason", completion({ content: "Hel" }, null), "StreamCut"],
      ["a refusal", completion({ content: null, refusal: "I can't" }), "Refusal"],
      ["a filter", completion({ content: "" }, "content_filter"), "ContentPolicy"],
      ["an error as its finish", completion({ content: "Hel" }, "error"), "ServerError"],
      ["a finish for lack of resources", completion({ content: "Hel" }, "insufficient_system_resource"), "Overloaded"]
    ] as const)("and fails on a 200 with %s", ([_, body, expected]) =>
      Effect.gen(function* () {
        const error = yield* Effect.flip(generated(body))

        assert.strictEqual(reason(error), expected)
      })
    )

    it.live("up to a bound", () =>
      Effect.gen(function* () {
        const server = yield* serve({ body: JSON.stringify(completion({ content: "x".repeat(5000) })) })
        const provider = yield* model({ baseUrl: server.baseUrl, maxResponseBytes: 1000 })

        const error = yield* Effect.flip(provider.generate(hi))

        assert.deepInclude(error, { reason: "InvalidResponse", description: "The answer is longer than 1000 bytes" })
      })
    )
  })

  describe("reads a streamed answer", () => {
    it.live("with reasoning, text, parallel tool calls and usage", () =>
      Effect.gen(function* () {
        const call = (index: number, rest: object) => chunk({ tool_calls: [{ index, ...rest }] })
        const { error, parts } = yield* streamed(
          sse(
            chunk({ role: "assistant", content: "" }),
            chunk({ reasoning: "H" }),
            chunk({ reasoning: "m" }),
            chunk({ content: "Hel" }),
            chunk({ content: "lo" }),
            call(0, { id: "call_1", function: { name: "weather", arguments: "" } }),
            call(0, { function: { arguments: '{"city":' } }),
            call(1, { id: "call_2", function: { name: "time", arguments: "" } }),
            call(0, { function: { arguments: '"Ulm"}' } }),
            chunk({}, "tool_calls"),
            { ...chunk({}), choices: [], usage },
            "[DONE]"
          )
        )

        assert.strictEqual(error, "complete")
        assert.deepStrictEqual(parts.slice(1), [
          {
            type: "response-metadata",
            id: "chatcmpl-1",
            modelId: "model-1-2026",
            timestamp: "2023-11-14T22:13:20.000Z"
          },
          { type: "reasoning-start", id: "1" },
          { type: "reasoning-delta", id: "1", delta: "H" },
          { type: "reasoning-delta", id: "1", delta: "m" },
          { type: "reasoning-end", id: "1" },
          { type: "text-start", id: "2" },
          { type: "text-delta", id: "2", delta: "Hel" },
          { type: "text-delta", id: "2", delta: "lo" },
          { type: "text-end", id: "2" },
          { type: "tool-params-start", id: "call_1", name: "weather" },
          { type: "tool-params-delta", id: "call_1", delta: '{"city":' },
          { type: "tool-params-start", id: "call_2", name: "time" },
          { type: "tool-params-delta", id: "call_1", delta: '"Ulm"}' },
          { type: "tool-params-end", id: "call_1" },
          { type: "tool-call", id: "call_1", name: "weather", params: { city: "Ulm" } },
          { type: "tool-params-end", id: "call_2" },
          { type: "tool-call", id: "call_2", name: "time", params: {} },
          {
            type: "finish",
            reason: "tool-calls",
            usage: { inputTokens: { total: 5, uncached: 5 }, outputTokens: { total: 7 } }
          }
        ])
      })
    )

    it.live("and gives a sign of life as soon as the headers arrive", () =>
      Effect.gen(function* () {
        const server = yield* serve({ headers: { "content-type": "text/event-stream" }, body: [], hang: true })
        const provider = yield* model({ baseUrl: server.baseUrl })

        const first = yield* Stream.runCollect(Stream.take(provider.stream(hi), 1))

        assert.strictEqual(first[0]?.type, "response-metadata")
      })
    )

    it.live("whose server numbers all its tool calls 0", () =>
      Effect.gen(function* () {
        const call = (id: string, name: string) => ({ index: 0, id, function: { name, arguments: "{}" } })
        const { parts } = yield* streamed(
          sse(chunk({ tool_calls: [call("a", "one")] }), chunk({ tool_calls: [call("b", "two")] }), chunk({}, "stop"))
        )

        assert.deepStrictEqual(
          parts.flatMap((part) => (part.type === "tool-call" ? [part.id, part.name] : [])),
          ["a", "one", "b", "two"]
        )
        assert.deepInclude(parts.at(-1), { type: "finish", reason: "tool-calls" })
      })
    )

    it.live("with pieces of a tool call that nobody named as if they were not there", () =>
      Effect.gen(function* () {
        const { error, parts } = yield* streamed(
          sse(
            chunk({
              tool_calls: [{ index: 0, function: { arguments: "{}" } }, { index: 1, function: { name: "" } }, null]
            }),
            chunk({}, "stop")
          )
        )

        assert.strictEqual(error, "complete")
        assert.isFalse(parts.some((part) => part.type.startsWith("tool")))
      })
    )

    it.live.each([
      ["without [DONE]", sse(chunk({ content: "Hello" }, "stop"))],
      ["without an empty line at the end", sse(chunk({ content: "Hello" }, "stop")).trimEnd()],
      ["with carriage returns", sse(chunk({ content: "Hello" }), chunk({}, "stop")).replaceAll("\n", "\r\n")],
      [
        "with comments, names and times to reconnect",
        `: hi\nretry: 5\nevent: x\nid: 1\n${sse(chunk({ content: "Hello" }, "stop"))}`
      ],
      ["with empty finish reasons", sse(chunk({ content: "Hello" }, ""), chunk({}, "stop"))],
      [
        "with chunks that say nothing",
        sse({ choices: [] }, {}, chunk({ content: "Hello" }), { type: "ping" }, chunk({}, "stop"))
      ],
      ["whole, from a server that does not stream", JSON.stringify(completion({ content: "Hello" }))]
    ] as const)("%s", ([_, body]) =>
      Effect.gen(function* () {
        const { error, parts } = yield* streamed(body)

        assert.strictEqual(error, "complete")
        assert.strictEqual(textOf(parts), "Hello")
        assert.deepInclude(parts.at(-1), { type: "finish", reason: "stop" })
      })
    )

    it.live("to its end and not to that of the connection", () =>
      Effect.gen(function* () {
        const server = yield* serve({
          headers: { "content-type": "text/event-stream" },
          body: [sse(chunk({ content: "Hello" }, "stop", { usage }))],
          hang: true
        })
        const provider = yield* model({ baseUrl: server.baseUrl })

        const parts = yield* Stream.runCollect(provider.stream(hi))

        assert.strictEqual(textOf(parts), "Hello")
      })
    )

    it.live("and leaves the connection to the next call", () =>
      Effect.gen(function* () {
        const server = yield* serve({
          headers: { "content-type": "text/event-stream" },
          body: [sse(chunk({ content: "Hello" }, "stop")), sse({ choices: [], usage }), ": bye\n\n", sse("[DONE]")]
        })
        const provider = yield* model({ baseUrl: server.baseUrl })

        for (let call = 0; call < 8; call++) {
          yield* Stream.runDrain(provider.stream(hi))
          yield* Effect.sleep("5 millis")
        }

        // Fetch may open a second one ahead of need.
        assert.isAtMost(server.connections(), 2)
      })
    )

    it.live.each([
      ["without a finish reason", sse(chunk({ content: "Hel" })), "StreamCut"],
      ["with [DONE] but without a finish reason", sse(chunk({ content: "Hel" }), "[DONE]"), "StreamCut"],
      ["cut within an event", sse(chunk({ content: "Hel" }), chunk({ content: "lo" })).slice(0, -30), "StreamCut"],
      ["with an event that is not JSON", sse(chunk({ content: "Hel" }), "{oops", chunk({}, "stop")), "InvalidResponse"],
      ["with an event that is no chunk", sse(chunk({ content: "Hel" }), "7", chunk({}, "stop")), "InvalidResponse"],
      [
        "with an error",
        sse(chunk({ content: "Hel" }), { error: { message: "Bad gateway", code: 502 } }, "[DONE]"),
        "ServerError"
      ],
      [
        "with an error in its chunk",
        sse(chunk({ content: "Hel" }), chunk({}, "error", { error: { code: 429 } })),
        "RateLimited"
      ],
      ["with an error by name", `${sse(chunk({ content: "Hel" }))}event: error\ndata: overloaded\n\n`, "Overloaded"],
      ["with an error as its finish", sse(chunk({ content: "Hel" }), chunk({}, "error"), "[DONE]"), "ServerError"],
      [
        "with broken arguments",
        sse(
          chunk({ content: "Hel" }),
          chunk({ tool_calls: [{ index: 0, function: { name: "x", arguments: "{" } }] }, "tool_calls")
        ),
        "InvalidResponse"
      ],
      [
        "that becomes a refusal",
        sse(chunk({ content: "Hel" }), chunk({ refusal: "I can't" }), chunk({}, "stop")),
        "Refusal"
      ]
    ] as const)("%s up to the error", ([_, body, expected]) =>
      Effect.gen(function* () {
        const { error, parts } = yield* streamed(body)

        assert.strictEqual(reason(error), expected)
        assert.strictEqual(textOf(parts), "Hel")
        assert.isFalse(parts.some((part) => part.type === "finish"))
      })
    )

    it.live.each([
      ["nothing", "", "StreamCut"],
      ["an error", JSON.stringify({ error: { code: "overloaded" } }), "Overloaded"],
      ["a page", "<!doctype html><title>Sign in</title>", "InvalidResponse"],
      ["a filter", sse(chunk({}, "content_filter")), "ContentPolicy"]
    ] as const)("that is %s and fails before any content", ([_, body, expected]) =>
      Effect.gen(function* () {
        const { error, parts } = yield* streamed(body)

        assert.strictEqual(reason(error), expected)
        assert.isFalse(parts.some(LlmResponse.isContent))
      })
    )

    it.live("up to the bounds of an event and of all of them", () =>
      Effect.gen(function* () {
        const long = sse(chunk({ content: "x".repeat(200_000) }))
        const many = sse(...Array.from({ length: 100 }, () => chunk({ content: "x".repeat(1000) })))

        const event = yield* streamed(long, { maxEventBytes: 10_000 })
        const stream = yield* streamed(many, { maxStreamBytes: 50_000 })

        assert.deepInclude(event.error, {
          reason: "InvalidResponse",
          description: "An event is longer than 10000 bytes"
        })
        assert.deepInclude(stream.error, {
          reason: "InvalidResponse",
          description: "The answer is longer than 50000 bytes"
        })
      })
    )
  })

  it.live("takes the first of several choices, whole and streamed", () =>
    Effect.gen(function* () {
      const choice = (index: number, content: string) => ({ index, message: { content }, finish_reason: "stop" })
      const whole = yield* generated({ choices: [choice(1, "second"), choice(0, "first")] })
      const part = (index: number, content: string, finish_reason: string | null = null) => ({
        choices: [{ index, delta: { content }, finish_reason }]
      })
      const { parts } = yield* streamed(
        sse(part(1, "sec"), part(0, "fi"), part(1, "ond", "stop"), part(0, "rst"), part(0, "", "length"), "[DONE]")
      )

      assert.strictEqual(whole.text, "first")
      assert.strictEqual(textOf(parts), "first")
      assert.deepInclude(parts.at(-1), { type: "finish", reason: "length" })
    })
  )

  it.live("gives the pages that an answer cites, whole and streamed, but no address that is none", () =>
    Effect.gen(function* () {
      const cited = (url: unknown, title?: string) => ({ type: "url_citation", url_citation: { url, title } })
      const annotations = [
        cited("https://example.com/a", "A"),
        cited("nowhere"),
        cited(7),
        cited("https://example.com/b")
      ]
      const expected = [
        { type: "source", sourceType: "url", id: "source_0", url: "https://example.com/a", title: "A" },
        {
          type: "source",
          sourceType: "url",
          id: "source_3",
          url: "https://example.com/b",
          title: "https://example.com/b"
        }
      ]
      const whole = yield* generated(completion({ content: "Hello", annotations }))
      const { parts } = yield* streamed(sse(chunk({ content: "Hello", annotations }), chunk({}, "stop"), "[DONE]"))

      assert.deepStrictEqual(
        whole.content.filter((part) => part.type === "source"),
        expected as never
      )
      assert.deepStrictEqual(
        parts.filter((part) => part.type === "source"),
        expected as never
      )
    })
  )

  describe("keeps the key to itself", () => {
    it.live("when the provider echoes it", () =>
      Effect.gen(function* () {
        const key = "my-very-own-key"
        const server = yield* serve({
          status: 401,
          body: JSON.stringify({ error: { message: `Incorrect API key provided: ${key}. Bearer ${key}`, code: key } })
        })
        const provider = yield* model({ baseUrl: server.baseUrl, apiKey: Redacted.make(key) })

        const error = yield* Effect.flip(provider.generate(hi))

        assert.strictEqual(reason(error), "Authentication")
        assert.notInclude(`${JSON.stringify(error)} ${String(error)}`, key)
      })
    )

    it.live("but a placeholder is no secret, and leaves the error readable", () =>
      Effect.gen(function* () {
        const server = yield* serve({
          status: 400,
          body: JSON.stringify({ error: "maximum context length is 9 tokens" })
        })
        const provider = yield* model({ baseUrl: server.baseUrl, apiKey: Redacted.make("context") })

        const error = yield* Effect.flip(provider.generate(hi))

        assert.deepInclude(error, {
          reason: "ContextLengthExceeded",
          description: "maximum context length is 9 tokens"
        })
      })
    )

    it.live("when its requests are traced", () =>
      Effect.gen(function* () {
        const { spans, tracer } = keptSpans()
        const server = yield* serve({ body: JSON.stringify(completion({ content: "Hello" })) })
        const provider = yield* model({
          baseUrl: server.baseUrl,
          apiKey: Redacted.make("my-own-key"),
          authentication: "api-key",
          headers: { "x-team": Redacted.make("my-own-team"), "x-app": "app" }
        })

        yield* provider.generate(hi).pipe(
          Effect.provideService(Tracer.Tracer, tracer),
          Effect.provideService(HttpClient.TracerHeaderFilter, () => true)
        )

        const attributes = spans
          .flatMap((span) => [...span.attributes])
          .map(([name, value]) => `${name}=${String(value)}`)
        assert.include(attributes.join(), "http.request.header.x-app=app")
        assert.notInclude(attributes.join(), "my-own")
      })
    )

    it.live("when no header can carry it, or when it stands in the address: the provider is not built", () =>
      Effect.gen(function* () {
        const messages: Array<string> = []
        for (const options of [
          { baseUrl: "http://127.0.0.1:9/v1", apiKey: Redacted.make("my-key\nis broken") },
          { baseUrl: "http://user:my-key@127.0.0.1:9/v1" },
          { baseUrl: "http://user:my-key@[bad" },
          { baseUrl: "http://127.0.0.1:9/v1", headers: { "x y": "my-key" } }
        ]) {
          const exit = yield* Effect.exit(model(options))
          messages.push(Exit.isFailure(exit) ? String(Cause.squash(exit.cause)) : "built")
        }

        assert.deepStrictEqual(messages, [
          "RangeError: OpenAiCompatible.make: the value of the header authorization has characters that no header can carry",
          "RangeError: OpenAiCompatible.make: baseUrl must not contain credentials; give an apiKey or headers",
          "RangeError: OpenAiCompatible.make: baseUrl must be an absolute URL that begins with http:// or https://",
          'RangeError: OpenAiCompatible.make: "x y" cannot be the name of a header'
        ])
      })
    )
  })

  it.live("joins the trace that it is asked in, and invents none", () =>
    Effect.gen(function* () {
      const server = yield* serve({ body: JSON.stringify(completion({ content: "Hello" })) })
      const provider = yield* model({ baseUrl: server.baseUrl })

      yield* provider.generate(hi)
      const { traceId } = yield* Effect.withSpan(
        Effect.andThen(provider.generate(hi), Effect.orDie(Effect.currentSpan)),
        "request"
      )

      assert.deepStrictEqual(
        server.received.map(({ headers }) =>
          [headers["traceparent"], headers["b3"]].map((id) => id?.includes(traceId))
        ),
        [
          [undefined, undefined],
          [true, true]
        ]
      )
    })
  )

  it.live("lets go of an answer that was read to its end, and of no other", () =>
    Effect.gen(function* () {
      const letsGo = (
        status: number,
        body: string,
        ask: (provider: Provider.Provider) => Effect.Effect<unknown, unknown>
      ) =>
        Effect.gen(function* () {
          let signal: AbortSignal | undefined
          const client = HttpClient.make((request, _, aborting) =>
            Effect.sync(() => {
              signal = aborting
              return HttpClientResponse.fromWeb(request, new Response(body, { status }))
            })
          )
          const provider = yield* Effect.provideService(
            OpenAiCompatible.make({ model: "model-1", maxResponseBytes: 1000 }),
            HttpClient.HttpClient,
            client
          )
          yield* Effect.exit(ask(provider))
          yield* Effect.sleep("20 millis")
          return signal?.aborted === false
        })
      const whole = (provider: Provider.Provider) => provider.generate(hi)
      const stream = (provider: Provider.Provider) => Stream.runDrain(provider.stream(hi))
      const some = (provider: Provider.Provider) => Stream.runHead(provider.stream(hi))
      const answer = JSON.stringify(completion({ content: "Hello" }))
      const events = sse(chunk({ content: "Hello" }, "stop", { usage }), "[DONE]")

      assert.isTrue(yield* letsGo(200, answer, whole))
      assert.isFalse(yield* letsGo(500, answer, whole))
      assert.isFalse(yield* letsGo(200, "Hello", whole))
      assert.isFalse(yield* letsGo(200, " ".repeat(1001), whole))
      assert.isTrue(yield* letsGo(200, events, stream))
      assert.isTrue(yield* letsGo(200, answer, stream))
      assert.isFalse(yield* letsGo(500, events, stream))
      assert.isFalse(yield* letsGo(200, events, some))
    })
  )

  it.live("does not take a body for JSON that ends in the middle of a character", () =>
    Effect.gen(function* () {
      const whole = new TextEncoder().encode(JSON.stringify(completion({ content: "Grüße" })))
      const server = yield* serve({ body: [whole.subarray(0, 155), whole.subarray(155), Uint8Array.of(0xe2, 0x82)] })
      const provider = yield* model({ baseUrl: server.baseUrl })

      assert.deepInclude(yield* Effect.flip(provider.generate(hi)), { reason: "InvalidResponse" })
    })
  )

  it.live("reads its options from the configuration", () =>
    Effect.gen(function* () {
      const layer = (env: { readonly [name: string]: string }) =>
        OpenAiCompatible.layerConfig({
          id: "step",
          model: Config.String("MODEL"),
          apiKey: Config.Redacted("KEY")
        }).pipe(Layer.provide([NodeHttpClient.layerUndici, ConfigProvider.layer(ConfigProvider.fromEnv({ env }))]))

      const provider = yield* Effect.provide(Provider.Provider, layer({ MODEL: "model-2", KEY: "secret" }))
      const error = yield* Effect.flip(Effect.provide(Provider.Provider, layer({ MODEL: "model-2" })))

      assert.deepInclude(provider, { id: "step", model: "model-2" })
      assert.include(error.message, "KEY")
    })
  )

  it("refuses options that cannot work", () => {
    const build = (options: Partial<OpenAiCompatible.Options>) => () => Effect.runSync(model(options))

    assert.throws(build({ baseUrl: "example.com" }), RangeError, /baseUrl/)
    assert.throws(build({ model: "" }), RangeError, /model/)
    assert.throws(build({ maxEventBytes: 0 }), RangeError, /maxEventBytes/)
  })
})
