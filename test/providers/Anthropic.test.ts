import { assert, describe, it } from "@effect/vitest"
import { LlmRequest, LlmResponse, ProviderError } from "@llm-resilience/core"
import { Anthropic } from "@llm-resilience/providers"
import { Effect, Redacted, Schema, Stream } from "effect"
import { Tool } from "effect/ai"
import { FetchHttpClient } from "effect/http"
import { named, serve } from "./server.ts"

const hi = LlmRequest.make({ prompt: "Hi" })

const model = (options: Partial<Anthropic.Options>) =>
  Effect.provide(Anthropic.make({ model: "claude-sonnet-4-5", ...options }), FetchHttpClient.layer)

const usage = { input_tokens: 5, cache_read_input_tokens: 2, cache_creation_input_tokens: 1, output_tokens: 1 }

const message = (content: ReadonlyArray<object>, stop: unknown = "end_turn", rest: object = {}) => ({
  id: "msg_1",
  type: "message",
  role: "assistant",
  model: "claude-sonnet-4-5-20250929",
  content,
  stop_reason: stop,
  usage,
  ...rest
})

const start = { type: "message_start", message: message([], null) }
const open = (index: number, block: object) => ({ type: "content_block_start", index, content_block: block })
const delta = (index: number, content: object) => ({ type: "content_block_delta", index, delta: content })
const close = (index: number) => ({ type: "content_block_stop", index })
const text = (index: number, said: string) => delta(index, { type: "text_delta", text: said })
const stop = (reason: string, details?: object) => ({
  type: "message_delta",
  delta: { stop_reason: reason, stop_sequence: null, stop_details: details },
  usage: { output_tokens: 9, input_tokens: null }
})
const end = { type: "message_stop" }
const hello = [start, open(0, { type: "text", text: "" }), text(0, "Hel"), text(0, "lo"), close(0)]

const streamed = (body: string, request: LlmRequest.LlmRequest = hi) =>
  Effect.gen(function* () {
    const server = yield* serve({ headers: { "content-type": "text/event-stream" }, body })
    const provider = yield* model({ baseUrl: server.baseUrl })
    const parts: Array<LlmResponse.LlmStreamPart> = []
    const error = yield* Effect.flip(
      Effect.andThen(
        Stream.runForEach(provider.stream(request), (part) => Effect.sync(() => parts.push(part))),
        Effect.fail("complete" as const)
      )
    )
    return { parts, error }
  })

const generated = (body: unknown, request: LlmRequest.LlmRequest = hi) =>
  Effect.gen(function* () {
    const server = yield* serve({ body: JSON.stringify(body) })
    const provider = yield* model({ baseUrl: server.baseUrl })
    return yield* provider.generate(request)
  })

const reason = (error: unknown) =>
  ProviderError.isProviderError(error) ? ProviderError.kind(error) : `not a provider error: ${String(error)}`

const textOf = (parts: ReadonlyArray<LlmResponse.LlmStreamPart>) =>
  parts.reduce((said, part) => (part.type === "text-delta" ? said + part.delta : said), "")

const sent = (request: LlmRequest.Input, options: Partial<Anthropic.Options> = {}) =>
  Effect.gen(function* () {
    const server = yield* serve({ body: JSON.stringify(message([{ type: "text", text: "Hello" }])) })
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

const City = Schema.Struct({ name: Schema.String.check(Schema.isMinLength(1)) })

const cityRequest = LlmRequest.make({
  prompt: "Hi",
  responseFormat: { type: "json", objectName: "city", schema: Schema.Record(Schema.String, Schema.String) }
})

const Named = City.annotate({ identifier: "Named" })

interface Tree {
  readonly children: ReadonlyArray<Tree>
}

const Node = Schema.Struct({
  children: Schema.Array(Schema.suspend((): Schema.Codec<Tree> => Node))
}).annotate({ identifier: "Node" })

interface Sent {
  readonly content: ReadonlyArray<{ readonly id?: string; readonly [field: string]: unknown }>
  readonly [field: string]: unknown
}

describe("Anthropic", () => {
  describe("asks", () => {
    it.live("with the model, the messages, the settings and the headers of the API", () =>
      Effect.gen(function* () {
        const { body, headers, url } = yield* sent(
          {
            prompt: [
              { role: "system", content: "Be brief." },
              { role: "user", content: "Hi" },
              { role: "system", content: "Be kind." }
            ],
            settings: { maxOutputTokens: 100, temperature: 1.5, topP: 0.9, stop: ["END", "\n"], seed: 1 }
          },
          { apiKey: Redacted.make("secret") }
        )

        assert.strictEqual(url, "/v1/messages")
        assert.strictEqual(headers["x-api-key"], "secret")
        assert.strictEqual(headers["anthropic-version"], "2023-06-01")
        assert.deepStrictEqual(body, {
          model: "claude-sonnet-4-5",
          max_tokens: 100,
          system: [
            { type: "text", text: "Be brief." },
            { type: "text", text: "Be kind." }
          ],
          messages: [{ role: "user", content: [{ type: "text", text: "Hi" }] }],
          temperature: 1,
          stop_sequences: ["END"],
          stream: false
        })
      })
    )

    it.live("for as many tokens as the model has, and 4096 when nobody says", () =>
      Effect.gen(function* () {
        const unknown = yield* sent({ prompt: "Hi" })
        const known = yield* sent({ prompt: "Hi" }, { capabilities: { maxOutputTokens: 64_000 } })

        assert.deepInclude(unknown.body, { max_tokens: 4096 })
        assert.deepInclude(known.body, { max_tokens: 64_000 })
      })
    )

    it.live("in turns that alternate, results of tools first, whoever made their ids", () =>
      Effect.gen(function* () {
        const id = "call:1"

        const { body } = yield* sent({
          prompt: [
            { role: "user", content: "Weather?" },
            {
              role: "user",
              content: [
                { type: "text", text: " " },
                { type: "text", text: "In Ulm?" }
              ]
            },
            {
              role: "assistant",
              content: [
                { type: "reasoning", text: "foreign" },
                { type: "reasoning", text: "own", options: { anthropic: { signature: "s1" } } },
                { type: "reasoning", text: "", options: { anthropic: { redactedData: "d1" } } },
                { type: "tool-call", id, name: "weather", params: { city: "Ulm" } }
              ]
            },
            { role: "user", content: "Well?" },
            { role: "tool", content: [{ type: "tool-result", id, name: "weather", isFailure: true, result: "no" }] },
            { role: "assistant", content: "It is \n" }
          ]
        })

        const { messages } = body as {
          messages: ReadonlyArray<Sent>
        }
        const rewritten = messages[1]?.content[2]?.id ?? ""
        assert.match(rewritten, /^[a-zA-Z0-9_-]{1,64}$/)
        assert.deepStrictEqual(messages, [
          {
            role: "user",
            content: [
              { type: "text", text: "Weather?" },
              { type: "text", text: "In Ulm?" }
            ]
          },
          {
            role: "assistant",
            content: [
              { type: "thinking", thinking: "own", signature: "s1" },
              { type: "redacted_thinking", data: "d1" },
              { type: "tool_use", id: rewritten, name: "weather", input: { city: "Ulm" } }
            ]
          },
          {
            role: "user",
            content: [
              { type: "tool_result", tool_use_id: rewritten, content: "no", is_error: true },
              { type: "text", text: "Well?" }
            ]
          },
          { role: "assistant", content: [{ type: "text", text: "It is" }] }
        ])
      })
    )

    it.live("beginning with the user, even when the conversation does not", () =>
      Effect.gen(function* () {
        const { body } = yield* sent({ prompt: [{ role: "assistant", content: "Once upon a time" }] })

        assert.nestedInclude(body, { "messages[0].role": "user", "messages[1].role": "assistant" })
      })
    )

    it.live("without thinking when it goes on with a turn of another model", () =>
      Effect.gen(function* () {
        const thinking = { providerOptions: { anthropic: { thinking: { type: "enabled", budget_tokens: 1024 } } } }
        const turn = (signed: boolean): LlmRequest.Input => ({
          settings: thinking,
          prompt: [
            { role: "user", content: "Weather?" },
            {
              role: "assistant",
              content: [
                { type: "reasoning", text: "Hm", options: signed ? { anthropic: { signature: "s" } } : {} },
                { type: "tool-call", id: "a", name: "weather", params: {} }
              ]
            },
            { role: "tool", content: [{ type: "tool-result", id: "a", name: "weather", isFailure: false, result: 1 }] }
          ]
        })

        const own = yield* sent(turn(true))
        const foreign = yield* sent(turn(false))
        const fresh = yield* sent({ prompt: "Hi", settings: thinking })

        assert.property(own.body, "thinking")
        assert.notProperty(foreign.body, "thinking")
        assert.property(fresh.body, "thinking")
      })
    )

    it.live("with images and documents, and marks where to cache", () =>
      Effect.gen(function* () {
        const { body } = yield* sent({
          prompt: [
            {
              role: "user",
              content: [
                { type: "file", mediaType: "image/png", data: new Uint8Array([1, 2, 3]) },
                {
                  type: "file",
                  mediaType: "application/pdf",
                  fileName: "a.pdf",
                  data: new URL("https://example.com/a.pdf"),
                  options: { anthropic: { cache_control: { type: "ephemeral" } } }
                }
              ]
            }
          ]
        })

        assert.deepInclude(body, {
          messages: [
            {
              role: "user",
              content: [
                { type: "image", source: { type: "base64", media_type: "image/png", data: "AQID" } },
                {
                  type: "document",
                  source: { type: "url", url: "https://example.com/a.pdf" },
                  title: "a.pdf",
                  cache_control: { type: "ephemeral" }
                }
              ]
            }
          ]
        })
      })
    )

    it.live("with tools and the choice among them", () =>
      Effect.gen(function* () {
        const free = yield* sent({ prompt: "Hi", tools: [weather] })
        const forced = yield* sent({ prompt: "Hi", tools: [weather], toolChoice: { tool: "weather" } })
        const any = yield* sent({ prompt: "Hi", tools: [weather], toolChoice: "required" })

        assert.deepInclude(free.body, {
          tools: [
            {
              name: "weather",
              description: "Tells the weather",
              input_schema: {
                type: "object",
                properties: { city: { type: "string" } },
                required: ["city"],
                additionalProperties: false
              }
            }
          ],
          tool_choice: { type: "auto" }
        })
        assert.deepInclude(forced.body, { tool_choice: { type: "tool", name: "weather" } })
        assert.deepInclude(any.body, { tool_choice: { type: "any" } })
      })
    )

    it.live("for JSON natively, and through a tool where that is not possible", () =>
      Effect.gen(function* () {
        const ask = (schema: Schema.Top, options?: Partial<Anthropic.Options>) =>
          sent({ prompt: "Hi", responseFormat: { type: "json", objectName: "city", schema } }, options)

        const native = yield* ask(City)
        const open = yield* ask(Schema.Record(Schema.String, Schema.String))
        const recursive = yield* ask(Node)
        const shared = yield* ask(Schema.Struct({ from: Named, to: Named }))
        const old = yield* ask(City, { model: "claude-3-opus-20240229" })

        assert.deepInclude(native.body, {
          output_config: {
            format: {
              type: "json_schema",
              schema: {
                type: "object",
                properties: { name: { type: "string" } },
                required: ["name"],
                additionalProperties: false
              }
            }
          }
        })
        assert.deepInclude(open.body, { tool_choice: { type: "tool", name: "city" } })
        assert.deepInclude(recursive.body, { tool_choice: { type: "tool", name: "city" } })
        assert.nestedInclude(shared.body, {
          "output_config.format.schema.properties.from.$ref": "#/$defs/Named",
          "output_config.format.schema.$defs.Named.additionalProperties": false
        })
        assert.nestedInclude(old.body, { "tools[0].name": "city", "tools[0].input_schema.type": "object" })
      })
    )
  })

  it.live("asks for JSON through the answering tool only, when no other may be called", () =>
    Effect.gen(function* () {
      const request = {
        prompt: "Where?",
        tools: [weather],
        responseFormat: { type: "json", objectName: "place", schema: Schema.Struct({ city: Schema.String }) }
      } as const
      const choiceOf = (toolChoice: LlmRequest.Input["toolChoice"]) =>
        Effect.map(sent({ ...request, toolChoice }, { structuredOutput: "tool" }), ({ body }) =>
          JSON.stringify(JSON.parse(JSON.stringify(body)).tool_choice)
        )

      assert.strictEqual(yield* choiceOf("none"), '{"type":"tool","name":"place"}')
      assert.strictEqual(yield* choiceOf("auto"), '{"type":"any"}')
      assert.strictEqual(yield* choiceOf({ tool: "weather" }), '{"type":"tool","name":"weather"}')
    })
  )

  it.live("gives the pages that an answer cites, whole and streamed", () =>
    Effect.gen(function* () {
      const citation = { type: "web_search_result_location", url: "https://example.com/", title: "Example" }
      const document = { type: "char_location", document_index: 0 }
      const whole = yield* generated(message([{ type: "text", text: "Hello", citations: [document, citation] }]))
      const { parts } = yield* streamed(
        named(...hello.slice(0, 4), delta(0, { type: "citations_delta", citation }), close(0), stop("end_turn"), end)
      )
      const page = { type: "source", sourceType: "url", url: "https://example.com/", title: "Example" }

      assert.deepStrictEqual(
        whole.content.filter((part) => part.type === "source"),
        [{ ...page, id: "source_0_1" }] as never
      )
      assert.deepStrictEqual(
        parts.filter((part) => part.type === "source"),
        [{ ...page, id: "source_0_0" }] as never
      )
    })
  )

  describe("reads a whole answer", () => {
    it.live("with thinking, text, tool calls and usage", () =>
      Effect.gen(function* () {
        const response = yield* generated(
          message(
            [
              { type: "thinking", thinking: "Hm", signature: "s1" },
              { type: "redacted_thinking", data: "d1" },
              { type: "new_block", anything: true },
              { type: "text", text: "Hello" },
              { type: "tool_use", id: "toolu_1", name: "weather", input: { city: "Ulm" } }
            ],
            "tool_use"
          )
        )

        assert.deepStrictEqual(response.content.slice(1), [
          { type: "reasoning", text: "Hm", metadata: { anthropic: { signature: "s1" } } },
          { type: "reasoning", text: "", metadata: { anthropic: { redactedData: "d1" } } },
          { type: "text", text: "Hello" },
          { type: "tool-call", id: "toolu_1", name: "weather", params: { city: "Ulm" } },
          {
            type: "finish",
            reason: "tool-calls",
            usage: { inputTokens: { uncached: 5, total: 8, cacheRead: 2, cacheWrite: 1 }, outputTokens: { total: 1 } }
          }
        ])
      })
    )

    it.live("that came through a tool as the JSON that was asked for", () =>
      Effect.gen(function* () {
        const response = yield* generated(
          message([{ type: "tool_use", id: "t", name: "city", input: { name: "Ulm" } }], "tool_use"),
          cityRequest
        )

        assert.strictEqual(response.text, '{"name":"Ulm"}')
        assert.strictEqual(response.finishReason, "stop")
        assert.deepStrictEqual(response.toolCalls, [])
      })
    )

    it.live.each([
      ["end_turn", "stop"],
      ["stop_sequence", "stop"],
      ["max_tokens", "length"],
      ["model_context_window_exceeded", "length"],
      ["pause_turn", "pause"],
      ["refusal", "content-filter"],
      ["tired", "other"]
    ] as const)("that stopped for %s", ([from, to]) =>
      Effect.gen(function* () {
        const response = yield* generated(message([{ type: "text", text: "Hello" }], from))

        assert.strictEqual(response.finishReason, to)
      })
    )

    it.live.each([
      ["an error", { type: "error", error: { type: "overloaded_error", message: "Overloaded" } }, "Overloaded"],
      ["another shape", { completion: "Hello" }, "InvalidResponse"],
      ["no stop reason", message([{ type: "text", text: "Hel" }], null), "StreamCut"],
      ["a refusal", message([], "refusal"), "ContentPolicy"]
    ] as const)("and fails on a 200 with %s", ([_, body, expected]) =>
      Effect.gen(function* () {
        assert.strictEqual(reason(yield* Effect.flip(generated(body))), expected)
      })
    )
  })

  describe("reads a streamed answer", () => {
    it.live("with thinking, text, tool calls and usage", () =>
      Effect.gen(function* () {
        const { error, parts } = yield* streamed(
          named(
            start,
            { type: "ping" },
            open(0, { type: "thinking", thinking: "" }),
            delta(0, { type: "thinking_delta", thinking: "Hm" }),
            delta(0, { type: "signature_delta", signature: "s1" }),
            close(0),
            open(1, { type: "redacted_thinking", data: "d1" }),
            close(1),
            open(2, { type: "text", text: "" }),
            text(2, "Hello"),
            delta(2, { type: "citations_delta", citation: {} }),
            close(2),
            open(3, { type: "tool_use", id: "toolu_1", name: "weather", input: {} }),
            delta(3, { type: "input_json_delta", partial_json: "" }),
            delta(3, { type: "input_json_delta", partial_json: '{"city":' }),
            delta(3, { type: "input_json_delta", partial_json: '"Ulm"}' }),
            close(3),
            open(4, { type: "server_tool_use", id: "srv", name: "web_search", input: {} }),
            delta(4, { type: "input_json_delta", partial_json: "{}" }),
            close(4),
            { type: "something_new" },
            stop("tool_use"),
            end
          )
        )

        assert.strictEqual(error, "complete")
        assert.deepInclude(parts[1], { type: "response-metadata", id: "msg_1", modelId: "claude-sonnet-4-5-20250929" })
        assert.deepStrictEqual(parts.slice(2), [
          { type: "reasoning-start", id: "0" },
          { type: "reasoning-delta", id: "0", delta: "Hm" },
          { type: "reasoning-end", id: "0", metadata: { anthropic: { signature: "s1" } } },
          { type: "reasoning-start", id: "1" },
          { type: "reasoning-end", id: "1", metadata: { anthropic: { redactedData: "d1" } } },
          { type: "text-start", id: "2" },
          { type: "text-delta", id: "2", delta: "Hello" },
          { type: "text-end", id: "2" },
          { type: "tool-params-start", id: "toolu_1", name: "weather" },
          { type: "tool-params-delta", id: "toolu_1", delta: '{"city":' },
          { type: "tool-params-delta", id: "toolu_1", delta: '"Ulm"}' },
          { type: "tool-params-end", id: "toolu_1" },
          { type: "tool-call", id: "toolu_1", name: "weather", params: { city: "Ulm" } },
          {
            type: "finish",
            reason: "tool-calls",
            usage: { inputTokens: { uncached: 5, total: 8, cacheRead: 2, cacheWrite: 1 }, outputTokens: { total: 9 } }
          }
        ])
      })
    )

    it.live("that comes through a tool as the JSON that was asked for", () =>
      Effect.gen(function* () {
        const { parts } = yield* streamed(
          named(
            start,
            open(0, { type: "tool_use", id: "t", name: "city", input: {} }),
            delta(0, { type: "input_json_delta", partial_json: '{"name":' }),
            delta(0, { type: "input_json_delta", partial_json: '"Ulm"}' }),
            close(0),
            stop("tool_use"),
            end
          ),
          cityRequest
        )

        assert.strictEqual(textOf(parts), '{"name":"Ulm"}')
        assert.deepInclude(parts.at(-1), { type: "finish", reason: "stop" })
      })
    )

    it.live.each([
      ["without message_stop", named(...hello, stop("end_turn"))],
      ["without the end of its block", named(...hello.slice(0, -1), stop("end_turn"), end)],
      ["without the beginning of its block", named(start, text(0, "Hello"), stop("end_turn"), end)],
      [
        "with its first words in the beginning of a block",
        named(start, open(0, { type: "text", text: "Hello" }), stop("end_turn"), end)
      ],
      ["whole, from a server that does not stream", JSON.stringify(message([{ type: "text", text: "Hello" }]))]
    ] as const)("%s", ([_, body]) =>
      Effect.gen(function* () {
        const { error, parts } = yield* streamed(body)

        assert.strictEqual(error, "complete")
        assert.strictEqual(textOf(parts), "Hello")
        assert.deepInclude(parts.at(-1), { type: "finish", reason: "stop" })
        assert.strictEqual(LlmResponse.collect(parts).filter((part) => part.type === "text").length, 1)
      })
    )

    it.live("with nothing in it as an answer all the same", () =>
      Effect.gen(function* () {
        const { error } = yield* streamed(named(start, stop("end_turn"), end))

        assert.strictEqual(error, "complete")
      })
    )

    it.live("that was cut by its budget without half of a tool call", () =>
      Effect.gen(function* () {
        const call = [
          open(0, { type: "tool_use", id: "t", name: "weather", input: {} }),
          delta(0, { type: "input_json_delta", partial_json: '{"ci' }),
          close(0)
        ]

        const short = yield* streamed(named(start, ...call, stop("max_tokens"), end))
        const broken = yield* streamed(named(start, ...call, stop("tool_use"), end))

        assert.strictEqual(short.error, "complete")
        assert.isFalse(short.parts.some((part) => part.type === "tool-call"))
        assert.strictEqual(reason(broken.error), "InvalidResponse")
      })
    )

    it.live.each([
      ["without a stop reason", named(...hello), "StreamCut"],
      ["with message_stop but without a stop reason", named(...hello, end), "StreamCut"],
      [
        "with an error",
        named(...hello, { type: "error", error: { type: "overloaded_error", message: "x" } }),
        "Overloaded"
      ],
      [
        "with an event that is not JSON",
        `${named(...hello)}data: {oops\n\n${named(stop("end_turn"))}`,
        "InvalidResponse"
      ]
    ] as const)("%s up to the error", ([_, body, expected]) =>
      Effect.gen(function* () {
        const { error, parts } = yield* streamed(body)

        assert.strictEqual(reason(error), expected)
        assert.strictEqual(textOf(parts), "Hello")
        assert.isFalse(parts.some((part) => part.type === "finish"))
      })
    )

    it.live("that is a refusal before any content as one of policy, and one after it as filtered", () =>
      Effect.gen(function* () {
        const before = yield* streamed(named(start, stop("refusal", { explanation: "Not this." }), end))
        const after = yield* streamed(named(...hello, stop("refusal"), end))

        assert.deepInclude(before.error, { reason: "ContentPolicy", description: "Not this." })
        assert.strictEqual(after.error, "complete")
        assert.deepInclude(after.parts.at(-1), { type: "finish", reason: "content-filter" })
      })
    )
  })

  it("refuses options that cannot work", () => {
    const build = (options: Partial<Anthropic.Options>) => () => Effect.runSync(model(options))

    for (const baseUrl of ["/v1", "localhost:8080/v1", "api.example.com/v1", "ftp://example.com"]) {
      assert.throws(build({ baseUrl }), /baseUrl must be an absolute URL that begins with http/)
    }
    assert.throws(build({ maxTokens: 0 }), RangeError, /maxTokens/)
  })
})
