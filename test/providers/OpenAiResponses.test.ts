import { assert, describe, it } from "@effect/vitest"
import { LlmRequest, LlmResponse, Provider, ProviderError } from "@llm-resilience/core"
import { OpenAiResponses } from "@llm-resilience/providers"
import { Effect, Exit, Layer, Redacted, Schema, Stream } from "effect"
import { Tool } from "effect/ai"
import { FetchHttpClient, HttpClient } from "effect/http"
import { named, serve } from "./server.ts"

const hi = LlmRequest.make({ prompt: "Hi" })

const provider = (options: Partial<OpenAiResponses.Options>) =>
  Effect.provide(OpenAiResponses.make({ model: "model-1", ...options }), FetchHttpClient.layer)

const message = (...content: ReadonlyArray<unknown>) => ({ type: "message", role: "assistant", id: "msg_1", content })
const text = (said: string, annotations: ReadonlyArray<unknown> = []) => ({
  type: "output_text",
  text: said,
  annotations
})

const response = (output: ReadonlyArray<unknown>, rest: object = {}) => ({
  id: "resp_1",
  object: "response",
  created_at: 1_700_000_000,
  status: "completed",
  error: null,
  incomplete_details: null,
  model: "model-1-2026",
  output,
  usage: {
    input_tokens: 10,
    input_tokens_details: { cached_tokens: 4 },
    output_tokens: 7,
    output_tokens_details: { reasoning_tokens: 5 }
  },
  ...rest
})

const generated = (body: unknown) =>
  Effect.gen(function* () {
    const server = yield* serve({ body: JSON.stringify(body) })
    return yield* (yield* provider({ baseUrl: server.baseUrl })).generate(hi)
  })

const sent = (request: LlmRequest.Input, options: Partial<OpenAiResponses.Options> = {}) =>
  Effect.gen(function* () {
    const server = yield* serve({ body: JSON.stringify(response([message(text("Hello"))])) })
    yield* (yield* provider({ baseUrl: server.baseUrl, ...options })).generate(LlmRequest.make(request))
    const received = server.received[0]
    assert(received !== undefined)
    return { ...received, body: JSON.parse(JSON.stringify(received.body)) }
  })

type Event = { readonly type: string; readonly [field: string]: unknown }

const streamed = (...events: ReadonlyArray<Event>) => raw(named(...events))

const raw = (body: string) =>
  Effect.gen(function* () {
    const server = yield* serve({ headers: { "content-type": "text/event-stream" }, body })
    const parts: Array<LlmResponse.LlmStreamPart> = []
    const adapter = yield* provider({ baseUrl: server.baseUrl })
    const exit = yield* Effect.exit(
      Stream.runForEach(adapter.stream(hi), (part) => Effect.sync(() => parts.push(part)))
    )
    const error = Exit.findErrorOption(exit)
    return { parts, error: error._tag === "None" ? undefined : error.value }
  })

const kind = (error: unknown) => (ProviderError.isProviderError(error) ? ProviderError.kind(error) : String(error))

const created: Event = { type: "response.created", response: response([], { status: "in_progress" }) }
const delta = (said: string, output_index = 0): Event => ({
  type: "response.output_text.delta",
  output_index,
  content_index: 0,
  delta: said
})
const completed = (rest: object = {}): Event => ({ type: "response.completed", response: response([], rest) })

const weather = Tool.make("weather", {
  description: "Tells the weather",
  parameters: Schema.Struct({ city: Schema.String })
})

describe("OpenAiResponses", () => {
  describe("asks", () => {
    it.live("with items, settings and nothing kept", () =>
      Effect.gen(function* () {
        const { body, headers, url } = yield* sent(
          {
            prompt: [
              { role: "system", content: "Be brief." },
              {
                role: "user",
                content: [
                  { type: "text", text: "What is this?" },
                  { type: "file", mediaType: "image/png", data: new Uint8Array([1, 2, 3]) },
                  { type: "file", mediaType: "application/pdf", data: new Uint8Array([1]), fileName: "a.pdf" },
                  { type: "file", mediaType: "application/pdf", data: new URL("https://example.com/b.pdf") }
                ]
              }
            ],
            settings: {
              maxOutputTokens: 20,
              temperature: 0.5,
              topP: 0.9,
              stop: ["END"],
              seed: 1,
              providerOptions: {
                "openai-responses": { reasoning: { effort: "low" } },
                openai: { reasoning_effort: "x" }
              }
            }
          },
          { apiKey: Redacted.make("the-key"), authentication: "api-key" }
        )

        assert.strictEqual(url, "/v1/responses")
        assert.strictEqual(headers["api-key"], "the-key")
        assert.deepStrictEqual(body, {
          model: "model-1",
          input: [
            { role: "system", content: "Be brief." },
            {
              role: "user",
              content: [
                { type: "input_text", text: "What is this?" },
                { type: "input_image", image_url: "data:image/png;base64,AQID", detail: "auto" },
                { type: "input_file", filename: "a.pdf", file_data: "data:application/pdf;base64,AQ==" },
                { type: "input_file", file_url: "https://example.com/b.pdf" }
              ]
            }
          ],
          store: false,
          max_output_tokens: 20,
          temperature: 0.5,
          top_p: 0.9,
          reasoning: { effort: "low" },
          stream: false
        })
      })
    )

    it.live("with calls, results and only the reasoning that is its own", () =>
      Effect.gen(function* () {
        const { body } = yield* sent({
          prompt: [
            { role: "user", content: "How warm is it?" },
            {
              role: "assistant",
              content: [
                {
                  type: "reasoning",
                  text: "Hm.",
                  options: { "openai-responses": { itemId: "rs_1", encryptedContent: "sealed" } }
                },
                { type: "reasoning", text: "of another" },
                { type: "text", text: "Let me look." },
                { type: "tool-call", id: "a b", name: "weather", params: { city: "Rome" } }
              ]
            },
            {
              role: "tool",
              content: [{ type: "tool-result", id: "a b", name: "weather", isFailure: false, result: { degrees: 21 } }]
            }
          ],
          tools: [weather],
          toolChoice: { tool: "weather" }
        })

        const [, reasoning, said, call, output] = body["input"]
        assert.deepStrictEqual(reasoning, {
          type: "reasoning",
          id: "rs_1",
          summary: [{ type: "summary_text", text: "Hm." }],
          encrypted_content: "sealed"
        })
        assert.deepStrictEqual(said, { role: "assistant", content: [{ type: "output_text", text: "Let me look." }] })
        assert.deepInclude(call, { type: "function_call", name: "weather", arguments: '{"city":"Rome"}' })
        assert.deepStrictEqual(output, {
          type: "function_call_output",
          call_id: call.call_id,
          output: '{"degrees":21}'
        })
        assert.match(call.call_id, /^[a-zA-Z0-9_-]{1,64}$/)
        assert.deepInclude(body["tools"][0], { type: "function", name: "weather", strict: false })
        assert.deepStrictEqual(body["tool_choice"], { type: "function", name: "weather" })
      })
    )

    it.live("for JSON", () =>
      Effect.gen(function* () {
        const { body } = yield* sent({
          prompt: "Where?",
          responseFormat: { type: "json", objectName: "a place", schema: Schema.Struct({ city: Schema.String }) }
        })

        assert.deepInclude(body["text"].format, { type: "json_schema", name: "a_place", strict: true })
      })
    )
  })

  describe("reads whole answers", () => {
    it.live("with reasoning, text, citations, calls, images and usage", () =>
      Effect.gen(function* () {
        const { content } = yield* generated(
          response([
            { type: "reasoning", id: "rs_1", summary: [{ text: "Hm." }, { text: "So." }], encrypted_content: "sealed" },
            { type: "reasoning", id: "rs_2", summary: [] },
            { type: "web_search_call", id: "ws_1", status: "completed" },
            message(
              text("Here.", [
                { type: "url_citation", url: "https://example.com/", title: "Example" },
                { type: "file_citation", file_id: "f" }
              ])
            ),
            { type: "function_call", id: "fc_1", call_id: "call_1", name: "weather", arguments: '{"city":"Rome"}' },
            { type: "image_generation_call", result: "AQID", output_format: "webp" },
            { type: "hologram" }
          ])
        )

        assert.deepStrictEqual(content, [
          { type: "response-metadata", id: "resp_1", modelId: "model-1-2026", timestamp: "2023-11-14T22:13:20.000Z" },
          {
            type: "reasoning",
            text: "Hm.\n\nSo.",
            metadata: { "openai-responses": { encryptedContent: "sealed", itemId: "rs_1" } }
          },
          { type: "text", text: "Here." },
          { type: "source", sourceType: "url", id: "source_3_0_0", url: "https://example.com/", title: "Example" },
          { type: "tool-call", id: "call_1", name: "weather", params: { city: "Rome" } },
          { type: "file", mediaType: "image/webp", data: "AQID" },
          {
            type: "finish",
            reason: "tool-calls",
            usage: {
              inputTokens: { total: 10, uncached: 6, cacheRead: 4 },
              outputTokens: { total: 7, reasoning: 5, text: 2 }
            }
          }
        ])
      })
    )

    it.live("and how they ended", () =>
      Effect.gen(function* () {
        const said = [message(text("Hello"))]
        const incomplete = (reason: string) => ({ status: "incomplete", incomplete_details: { reason } })
        const half = { type: "function_call", call_id: "c", name: "weather", arguments: '{"ci' }
        for (const [output, rest, expected] of [
          [said, {}, "stop"],
          [said, incomplete("max_output_tokens"), "length"],
          [[half], incomplete("max_output_tokens"), "length"],
          [said, incomplete("content_filter"), "content-filter"],
          [said, incomplete("something_new"), "other"]
        ] as const) {
          assert.strictEqual((yield* generated(response(output, rest))).finishReason, expected)
        }
        for (const [output, rest, expected] of [
          [[], incomplete("content_filter"), "ContentPolicy"],
          [[message({ type: "refusal", refusal: "No." })], {}, "Refusal"],
          [[half], {}, "InvalidResponse"],
          [said, { status: "in_progress" }, "StreamCut"],
          [said, { status: "failed" }, "ServerError"],
          [said, { status: "cancelled" }, "ServerError"],
          [[], { status: "failed", error: { code: "rate_limit_exceeded", message: "x" } }, "RateLimited"],
          [null, {}, "InvalidResponse"]
        ] as const) {
          const body = { ...response([]), output, ...rest }
          assert.strictEqual(kind(yield* Effect.flip(generated(body))), expected, JSON.stringify(rest))
        }
      })
    )
  })

  describe("reads streams", () => {
    it.live("of everything, and skips events it does not know", () =>
      Effect.gen(function* () {
        const call = { type: "function_call", id: "fc_1", call_id: "call_1", name: "weather" }
        const { error, parts } = yield* streamed(
          created,
          { type: "response.output_item.added", output_index: 0, item: { type: "reasoning", id: "rs_1" } },
          { type: "response.reasoning_summary_text.delta", output_index: 0, summary_index: 0, delta: "Hm." },
          {
            type: "response.output_item.done",
            output_index: 0,
            item: { type: "reasoning", id: "rs_1", encrypted_content: "sealed" }
          },
          delta("Grü", 1),
          { type: "response.something.new", output_index: 1, delta: "x" },
          delta("ße", 1),
          {
            type: "response.output_text.annotation.added",
            output_index: 1,
            annotation: { type: "url_citation", url: "https://example.com/" }
          },
          { type: "response.output_item.added", output_index: 2, item: call },
          { type: "response.function_call_arguments.delta", output_index: 2, delta: '{"city":' },
          { type: "response.function_call_arguments.delta", output_index: 2, delta: '"Rome"}' },
          { type: "response.output_item.done", output_index: 2, item: { ...call, arguments: '{"city":"Rome"}' } },
          { type: "response.output_item.added", output_index: 3, item: { ...call, call_id: "call_2" } },
          { type: "response.output_item.done", output_index: 3, item: { ...call, arguments: '{"city":"Oslo"}' } },
          completed()
        )

        assert.isUndefined(error)
        assert.deepStrictEqual(
          LlmResponse.collect(parts).filter((part) => part.type !== "response-metadata" && part.type !== "finish"),
          [
            {
              type: "reasoning",
              text: "Hm.",
              metadata: { "openai-responses": { encryptedContent: "sealed", itemId: "rs_1" } }
            },
            { type: "text", text: "Grüße" },
            {
              type: "source",
              sourceType: "url",
              id: "source_0",
              url: "https://example.com/",
              title: "https://example.com/"
            },
            { type: "tool-call", id: "call_1", name: "weather", params: { city: "Rome" } },
            { type: "tool-call", id: "call_2", name: "weather", params: { city: "Oslo" } }
          ]
        )
        assert.deepInclude(parts.at(-1), { type: "finish", reason: "tool-calls" })
      })
    )

    it.live("whose errors after `response.created` come before any content", () =>
      Effect.gen(function* () {
        const failures: ReadonlyArray<readonly [Event, string]> = [
          [{ type: "error", code: "rate_limit_exceeded", message: "Slow down", param: null }, "RateLimited"],
          [
            { type: "error", error: { type: "server_error", code: "server_is_overloaded", message: "x" } },
            "Overloaded"
          ],
          [
            {
              type: "response.failed",
              response: response([], { status: "failed", error: { code: "server_error", message: "x" } })
            },
            "ServerError"
          ],
          [
            {
              type: "response.failed",
              response: response([], { status: "failed", error: { code: "insufficient_quota", message: "x" } })
            },
            "QuotaExhausted"
          ],
          [{ type: "response.failed", response: response([], { status: "failed" }) }, "ServerError"]
        ]
        for (const [failure, expected] of failures) {
          const { error, parts } = yield* streamed(created, failure)

          assert.strictEqual(kind(error), expected)
          assert.isFalse(parts.some((part) => LlmResponse.isContent(part)))
        }
      })
    )

    it.live("and their ends", () =>
      Effect.gen(function* () {
        const incomplete = (reason: string): Event => ({
          type: "response.incomplete",
          response: response([], { status: "incomplete", incomplete_details: { reason } })
        })
        const long = yield* streamed(created, delta("Hello"), incomplete("max_output_tokens"))
        assert.deepInclude(long.parts.at(-1), { type: "finish", reason: "length" })
        const refusal: Event = { type: "response.refusal.delta", output_index: 0, delta: "No." }
        for (const [events, expected] of [
          [[created, delta("Hello")], "StreamCut"],
          [[created, incomplete("content_filter")], "ContentPolicy"],
          [[created, refusal, completed()], "Refusal"]
        ] as const) {
          assert.strictEqual(kind((yield* streamed(...events)).error), expected)
        }
        assert.strictEqual(kind((yield* raw("data: {nonsense\n\ndata: {}\n\n")).error), "InvalidResponse")
        assert.isUndefined((yield* raw(JSON.stringify(response([message(text("Hello"))])))).error)
      })
    )
  })

  it.effect("provides layers", () =>
    Effect.gen(function* () {
      const plain = yield* Effect.provide(
        Provider.Provider,
        Layer.provide(OpenAiResponses.layer({ model: "gpt-5" }), FetchHttpClient.layer)
      )
      const configured = yield* Provider.Provider.pipe(
        Effect.provide(OpenAiResponses.layerConfig({ model: "mine" })),
        Effect.provideService(
          HttpClient.HttpClient,
          HttpClient.make(() => Effect.never)
        )
      )

      assert.strictEqual(plain.id, "openai-responses")
      assert.deepStrictEqual(configured.capabilities, {})
    })
  )
})
