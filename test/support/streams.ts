import { EventStreamCodec } from "@smithy/core/event-streams"
import { ProviderError } from "@llm-resilience/core"
import { Effect, Exit } from "effect"
import { HttpClient, HttpClientResponse } from "effect/http"
import { sse } from "../providers/server.ts"
import type { Protocol } from "./adapters.ts"

/** A transport that answers with these bytes, cut at these places. */
export const answering = (bytes: Uint8Array, cuts: ReadonlyArray<number>, status = 200) =>
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

/** Whether a call ended with an answer or a typed error. A defect of the adapter's own would come as an error with its cause. */
export const isSound = (exit: Exit.Exit<unknown, unknown>): boolean =>
  Exit.isSuccess(exit) ||
  exit.cause.reasons.every(
    (reason) =>
      reason._tag === "Fail" &&
      ProviderError.isProviderError(reason.error) &&
      !(reason.error._tag === "APIError" && reason.error.cause !== undefined)
  )

export const said = 'Grüße 👋🏽 \n\n data: {} \u2028 \\ " \u0000'

const codec = new EventStreamCodec(
  (bytes) => Buffer.from(bytes as Uint8Array).toString("utf8"),
  (text) => new Uint8Array(Buffer.from(text, "utf8"))
)

/** One binary event of Bedrock. */
export const awsEvent = (name: string, body: unknown, type = "event"): Buffer =>
  Buffer.from(
    codec.encode({
      headers: {
        ":message-type": { type: "string", value: type },
        [type === "event" ? ":event-type" : ":exception-type"]: { type: "string", value: name }
      },
      body: new Uint8Array(Buffer.from(typeof body === "string" ? body : JSON.stringify(body), "utf8"))
    })
  )

const geminiChunk = (part: object, finishReason?: string) => ({
  candidates: [{ content: { parts: [part] }, ...(finishReason === undefined ? {} : { finishReason }) }],
  usageMetadata: { promptTokenCount: 1, candidatesTokenCount: 2 },
  responseId: "1"
})

const call = { type: "function_call", id: "fc", call_id: "a", name: "t" }

/** An event before it is written. Only some protocols have names. */
export interface Event {
  readonly name: string
  readonly body: unknown
}

/** The events of a whole streamed answer: it thinks, says {@link said} twice, and calls the tool `t` with `{"a":"ü"}`. */
export const sources: { readonly [P in Protocol]: ReadonlyArray<Event> } = {
  openai: [
    { id: "1", choices: [{ delta: { reasoning: said } }] },
    { choices: [{ delta: { content: said } }] },
    { choices: [{ delta: { content: said } }] },
    { choices: [{ delta: { tool_calls: [{ index: 0, id: "a", function: { name: "t", arguments: '{"a":' } }] } }] },
    { choices: [{ delta: { tool_calls: [{ index: 0, function: { arguments: '"ü"}' } }] } }] },
    { choices: [{ delta: {}, finish_reason: "tool_calls" }] },
    { choices: [], usage: { prompt_tokens: 1, completion_tokens: 2 } },
    "[DONE]"
  ].map((body) => ({ name: "", body })),
  "openai-responses": [
    { type: "response.created", response: { id: "1", model: "m" } },
    { type: "response.reasoning_summary_text.delta", output_index: 0, summary_index: 0, delta: said },
    { type: "response.output_item.done", output_index: 0, item: { type: "reasoning", encrypted_content: "s" } },
    { type: "response.output_text.delta", output_index: 1, content_index: 0, delta: said },
    { type: "response.output_text.delta", output_index: 1, content_index: 0, delta: said },
    { type: "response.content_part.done", output_index: 1, content_index: 0 },
    { type: "response.output_item.added", output_index: 2, item: call },
    { type: "response.function_call_arguments.delta", output_index: 2, delta: '{"a":"ü"}' },
    { type: "response.output_item.done", output_index: 2, item: call },
    { type: "response.completed", response: { status: "completed", usage: { input_tokens: 1, output_tokens: 2 } } }
  ].map((body) => ({ name: body.type, body })),
  anthropic: [
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
  ].map((body) => ({ name: body.type, body })),
  bedrock: (
    [
      ["messageStart", { role: "assistant" }],
      ["contentBlockDelta", { contentBlockIndex: 0, delta: { reasoningContent: { text: said } } }],
      ["contentBlockDelta", { contentBlockIndex: 0, delta: { reasoningContent: { signature: "s" } } }],
      ["contentBlockStop", { contentBlockIndex: 0 }],
      ["contentBlockDelta", { contentBlockIndex: 1, delta: { text: said } }],
      ["contentBlockDelta", { contentBlockIndex: 1, delta: { text: said } }],
      ["contentBlockStop", { contentBlockIndex: 1 }],
      ["contentBlockStart", { contentBlockIndex: 2, start: { toolUse: { toolUseId: "a", name: "t" } } }],
      ["contentBlockDelta", { contentBlockIndex: 2, delta: { toolUse: { input: '{"a":"ü"}' } } }],
      ["contentBlockStop", { contentBlockIndex: 2 }],
      ["messageStop", { stopReason: "tool_use" }],
      ["metadata", { usage: { inputTokens: 1, outputTokens: 2 } }]
    ] as const
  ).map(([name, body]) => ({ name, body })),
  gemini: [
    geminiChunk({ text: said, thought: true }),
    geminiChunk({ text: said }),
    geminiChunk({ text: said }),
    geminiChunk({ functionCall: { name: "t", args: { a: "ü" } }, thoughtSignature: "s" }),
    geminiChunk({ text: "" }, "STOP")
  ].map((body) => ({ name: "", body }))
}

/** Writes an event as its protocol does. */
export const written = (protocol: Protocol, { body, name }: Event): Buffer => {
  switch (protocol) {
    case "bedrock":
      return awsEvent(name, body)
    case "openai":
    case "gemini":
      return Buffer.from(sse(body))
    case "anthropic":
    case "openai-responses":
      return Buffer.from(`event: ${name}\n${sse(body)}`)
  }
}

/** The bytes of a whole streamed answer. */
export const complete = (protocol: Protocol): Buffer =>
  Buffer.concat(sources[protocol].map((event) => written(protocol, event)))

/** From how many bytes on an answer is complete, and with how few it cannot be. */
export const completeness = (protocol: Protocol): { readonly from: number; readonly notBelow: number } => {
  const { length } = complete(protocol)
  const end = sources[protocol].at(-1)
  const last = end === undefined ? 0 : written(protocol, end).length
  switch (protocol) {
    // The terminator may be missing, and with OpenAI the usage as well.
    case "openai":
    case "anthropic":
      return { from: length - last, notBelow: length - last - 100 }
    case "bedrock":
      return { from: length - last, notBelow: length - last }
    // The empty line after the last event may be missing.
    case "gemini":
    case "openai-responses":
      return { from: length - 2, notBelow: length - 2 }
  }
}
