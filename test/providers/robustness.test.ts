import { assert, describe, it } from "@effect/vitest"
import { LlmRequest, LlmResponse, ProviderError } from "@llm-resilience/core"
import { Anthropic, OpenAiCompatible } from "@llm-resilience/providers"
import { Effect, Exit, Schema, Stream } from "effect"
import { HttpClient, HttpClientResponse } from "effect/http"
import { named, sse } from "./server.ts"

const hi = LlmRequest.make({ prompt: "Hi" })

const protocols = { openai: OpenAiCompatible, anthropic: Anthropic }

/** A transport that answers with these bytes, cut at these places. */
const answering = (bytes: Uint8Array, cuts: ReadonlyArray<number>, status = 200) =>
  HttpClient.make((request) =>
    Effect.sync(() => {
      const at = [...new Set(cuts.map((cut) => cut % (bytes.length + 1)))].toSorted((left, right) => left - right)
      const pieces = [0, ...at].map((from, index) => bytes.slice(from, at[index] ?? bytes.length))
      const body = new ReadableStream<Uint8Array>({
        pull: (controller) => {
          const piece = pieces.shift()
          if (piece === undefined) controller.close()
          else controller.enqueue(piece)
        }
      })
      return HttpClientResponse.fromWeb(request, new Response(body, { status }))
    })
  )

const providerOf = (protocol: keyof typeof protocols, client: HttpClient.HttpClient) =>
  Effect.provideService(
    protocols[protocol].make({ model: "model-1", maxEventBytes: 2000 }),
    HttpClient.HttpClient,
    client
  )

const collected = (protocol: keyof typeof protocols, client: HttpClient.HttpClient) =>
  Effect.flatMap(providerOf(protocol, client), (provider) => Stream.runCollect(provider.stream(hi)))

const isSound = (exit: Exit.Exit<unknown, unknown>): boolean =>
  Exit.isSuccess(exit) ||
  exit.cause.reasons.every(
    (reason) =>
      reason._tag === "Fail" &&
      ProviderError.isProviderError(reason.error) &&
      // A defect of the adapter's own would come as an error with its cause.
      !(reason.error._tag === "APIError" && reason.error.cause !== undefined)
  )

const said = 'Grüße 👋🏽 \n\n data: {} \u2028 \\ " \u0000'

const complete = {
  openai: sse(
    { id: "1", choices: [{ delta: { reasoning: said } }] },
    { choices: [{ delta: { content: said } }] },
    { choices: [{ delta: { content: said } }] },
    { choices: [{ delta: { tool_calls: [{ index: 0, id: "a", function: { name: "t", arguments: '{"a":' } }] } }] },
    { choices: [{ delta: { tool_calls: [{ index: 0, function: { arguments: '"ü"}' } }] } }] },
    { choices: [{ delta: {}, finish_reason: "tool_calls" }] },
    { choices: [], usage: { prompt_tokens: 1, completion_tokens: 2 } },
    "[DONE]"
  ),
  anthropic: named(
    ...([
      { type: "message_start", message: { id: "1", usage: { input_tokens: 1 } } },
      { type: "content_block_start", index: 0, content_block: { type: "thinking" } },
      { type: "content_block_delta", index: 0, delta: { type: "thinking_delta", thinking: said } },
      { type: "content_block_delta", index: 0, delta: { type: "signature_delta", signature: "s" } },
      { type: "content_block_stop", index: 0 },
      { type: "content_block_start", index: 1, content_block: { type: "text" } },
      { type: "content_block_delta", index: 1, delta: { type: "text_delta", text: said } },
      { type: "content_block_delta", index: 1, delta: { type: "text_delta", text: said } },
      { type: "content_block_stop", index: 1 },
      { type: "content_block_start", index: 2, content_block: { type: "tool_use", id: "a", name: "t" } },
      { type: "content_block_delta", index: 2, delta: { type: "input_json_delta", partial_json: '{"a":"ü"}' } },
      { type: "content_block_stop", index: 2 },
      { type: "message_delta", delta: { stop_reason: "tool_use" }, usage: { output_tokens: 2 } },
      { type: "message_stop" }
    ] as const)
  )
}

// Where the answer is complete but for its terminator.
const terminator = { openai: "data: [DONE]", anthropic: "event: message_stop" }

const Cuts = Schema.Array(Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 5000 })))

const Fragment = Schema.Union([
  Schema.Literals([
    "data: ",
    "data:",
    "event: error\n",
    "\n",
    "\n\n",
    "\r\n\r\n",
    ": x\n",
    "[DONE]",
    "{",
    "}",
    "null",
    "[]",
    '{"error":',
    '{"choices":[{"delta":{"content":"x","tool_calls":[{"function":{"name":"a"}}]},"finish_reason":"stop"}]}',
    '{"choices":[{"delta":{"content":7,"tool_calls":[null,7,{"function":7}]}}],"usage":7}',
    '{"choices":{"0":{"delta":[]}}}',
    '{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"x"}}',
    '{"type":"content_block_start","index":-1,"content_block":7}',
    '{"type":"content_block_stop","index":"x"}',
    '{"type":"message_start","message":7}',
    '{"type":"message_delta","delta":7,"usage":[]}',
    '{"type":"message_stop"}'
  ]),
  Schema.String
])

describe.each(["openai", "anthropic"] as const)("%s", (protocol) => {
  it.effect.prop("reads a stream the same, wherever it is cut into pieces", { cuts: Cuts }, ({ cuts }) =>
    Effect.gen(function* () {
      const bytes = Buffer.from(complete[protocol], "utf8")
      const whole = yield* collected(protocol, answering(bytes, []))

      const pieces = yield* collected(protocol, answering(bytes, cuts))

      assert.deepStrictEqual(LlmResponse.collect(pieces).slice(1), LlmResponse.collect(whole).slice(1))
      assert.strictEqual(
        pieces
          .filter((part) => part.type === "text-delta")
          .map((part) => part.delta)
          .join(""),
        said + said
      )
    })
  )

  it.effect.prop(
    "takes a stream that ends anywhere for complete only once it finished",
    { end: Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 3000 })), cuts: Cuts },
    ({ cuts, end }) =>
      Effect.gen(function* () {
        const bytes = Buffer.from(complete[protocol], "utf8")
        const finished = Buffer.from(complete[protocol].slice(0, complete[protocol].indexOf(terminator[protocol])))
        const part = bytes.subarray(0, end % (bytes.length + 1))

        const exit = yield* Effect.exit(collected(protocol, answering(part, cuts)))

        assert.isTrue(isSound(exit))
        // Only the last event's empty line and, with OpenAI, the usage may be missing from a complete answer.
        if (part.length >= finished.length) assert.isTrue(Exit.isSuccess(exit))
        if (part.length < finished.length - 100) assert.isTrue(Exit.isFailure(exit))
      })
  )

  it.effect.prop(
    "never dies of what a server sends",
    {
      fragments: Schema.Array(Fragment),
      noise: Schema.Uint8Array,
      cuts: Cuts,
      status: Schema.Literals([200, 400, 503])
    },
    ({ cuts, fragments, noise, status }) =>
      Effect.gen(function* () {
        for (const bytes of [noise, Buffer.concat([Buffer.from(fragments.join("")), noise])]) {
          const provider = yield* providerOf(protocol, answering(bytes, cuts, status))

          assert.isTrue(isSound(yield* Effect.exit(provider.generate(hi))))
          assert.isTrue(isSound(yield* Effect.exit(Stream.runDrain(provider.stream(hi)))))
        }
      })
  )

  it.effect.prop(
    "never dies of a body with any JSON in any place",
    { json: Schema.Json, other: Schema.Json },
    ({ json, other }) =>
      Effect.gen(function* () {
        const bodies = [
          json,
          { choices: [json], error: other },
          { choices: [{ message: json, finish_reason: "stop" }] },
          {
            choices: [{ message: { content: json, tool_calls: [other], refusal: json }, finish_reason: other }],
            usage: json
          },
          {
            choices: [
              {
                message: { content: json, tool_calls: [{ id: other, function: { name: "a", arguments: json } }] },
                finish_reason: "stop"
              }
            ]
          },
          { content: [json], stop_reason: other },
          {
            content: [
              { type: "tool_use", input: json, id: other, name: json },
              { type: "text", text: other }
            ],
            stop_reason: json,
            usage: other
          }
        ]
        for (const body of bodies) {
          const provider = yield* providerOf(protocol, answering(Buffer.from(JSON.stringify(body)), []))

          assert.isTrue(isSound(yield* Effect.exit(provider.generate(hi))))
        }
      })
  )
})
