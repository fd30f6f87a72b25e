import * as Result from "effect/Result"
import * as Schema from "effect/Schema"
import { openaiWire } from "./openaiWire.ts"
import { pieces } from "./tokens.ts"
import { event, padded } from "./wire.ts"
import type { Exchange, Fields, Frame, Wire } from "./wire.ts"

const Text = Schema.Union([
  Schema.String,
  Schema.Array(Schema.Struct({ type: Schema.String, text: Schema.optional(Schema.String) }))
])

const Item = Schema.Struct({
  type: Schema.optional(Schema.String),
  role: Schema.optional(Schema.Literals(["developer", "system", "user", "assistant"])),
  content: Schema.optional(Text)
})

const Request = Schema.Struct({
  model: Schema.NonEmptyString,
  instructions: Schema.optional(Schema.NullOr(Schema.String)),
  input: Schema.Union([Schema.String, Schema.NonEmptyArray(Item)]),
  stream: Schema.optional(Schema.NullOr(Schema.Boolean)),
  tools: Schema.optional(Schema.Array(Schema.Struct({ name: Schema.optional(Schema.String) })))
})

const decode = Schema.decodeUnknownResult(Request)

const textOf = (content: typeof Text.Type | undefined): string =>
  typeof content === "string" ? content : (content ?? []).map((part) => part.text ?? "").join("")

/** OpenAI's Responses. */
export const responsesWire: Wire = {
  protocol: "openai-responses",
  path: /\/responses$/,
  decode: ({ body }) =>
    Result.mapBoth(decode(body), {
      onFailure: (error) => error.message,
      onSuccess: ({ input, instructions, model, stream, tools }) => {
        const items: ReadonlyArray<typeof Item.Type> =
          typeof input === "string" ? [{ role: "user", content: input }] : input
        const messages = items.flatMap(({ content, role }) =>
          role === undefined ? [] : [{ role, text: textOf(content) }]
        )
        const isSystem = ({ role }: { readonly role: string }) => role === "system" || role === "developer"
        const system = messages.filter(isSystem).map((message) => message.text)
        return {
          question: {
            protocol: "openai-responses",
            model,
            stream: stream ?? false,
            system: [...(instructions ? [instructions] : []), ...system].join("\n"),
            messages: messages.filter((message) => !isSystem(message)),
            text: messages.findLast((message) => message.role === "user")?.text ?? "",
            tools: (tools ?? []).flatMap(({ name }) => (name === undefined ? [] : [name])),
            body
          },
          usageInStream: true
        }
      }
    }),
  whole: (exchange) => response(exchange, output(exchange)),
  frames: (exchange) => {
    const frames: Array<Frame> = []
    const push = (kind: Frame["kind"], type: string, fields: Fields) =>
      frames.push({ kind, text: event(type, { type, ...fields, sequence_number: frames.length }) })
    const begun = { ...response(exchange, []), status: "in_progress", usage: null }
    push("preamble", "response.created", { response: begun })
    push("preamble", "response.in_progress", { response: begun })
    for (const [output_index, item] of items(exchange).entries()) {
      const at = { output_index, item_id: item.id }
      // What opens the first item says nothing yet.
      const opening = output_index === 0 ? "preamble" : "block"
      push(opening, "response.output_item.added", { output_index, item: item.begun })
      if (item.part !== undefined)
        push(opening, "response.content_part.added", { ...at, content_index: 0, part: item.part })
      for (const delta of item.deltas) push("part", item.event, { ...at, ...item.place, delta })
      if (item.part !== undefined)
        push("block", "response.content_part.done", { ...at, content_index: 0, part: item.part })
      push("block", "response.output_item.done", { output_index, item: item.whole })
    }
    if (exchange.finish !== undefined) {
      const type = statusOf(exchange) === "incomplete" ? "response.incomplete" : "response.completed"
      push("finish", type, { response: response(exchange, output(exchange)) })
    }
    return frames
  },
  headers: openaiWire.headers,
  error: openaiWire.error,
  errorFrame: (body) => {
    const error = typeof body === "object" && body !== null && "error" in body ? body["error"] : body
    return event("error", { ...fieldsOf(error), type: "error", sequence_number: 0 })
  },
  overloaded: 503,
  malformed: `event: response.output_text.delta\ndata: {"type":"response.output_text.del\n\n`
}

const fieldsOf = (error: Schema.Json | undefined): Fields =>
  typeof error === "object" && error !== null && !Array.isArray(error)
    ? Object.fromEntries(Object.entries(error))
    : { message: error ?? "" }

interface OutputItem {
  readonly id: string
  readonly begun: Fields
  readonly whole: Fields
  readonly event: string
  readonly deltas: ReadonlyArray<string>
  readonly place: Fields
  readonly part?: Fields | undefined
}

const items = (exchange: Exchange): ReadonlyArray<OutputItem> => {
  const id = (kind: string, index: number) => `${kind}_${padded(exchange.serial * 100 + index)}`
  const message = (tokens: ReadonlyArray<string>, part: Fields, event: string, index: number): OutputItem => {
    const whole = { id: id("msg", index), type: "message", role: "assistant", status: "completed", content: [part] }
    const begun = { ...whole, status: "in_progress", content: [] }
    return { id: whole.id, begun, whole, event, deltas: tokens, place: { content_index: 0 }, part }
  }
  const { reasoning, refusal, text, toolCalls } = exchange
  return [
    ...(reasoning.length === 0
      ? []
      : [
          {
            id: id("rs", 0),
            begun: { id: id("rs", 0), type: "reasoning", summary: [] },
            whole: {
              id: id("rs", 0),
              type: "reasoning",
              summary: [{ type: "summary_text", text: reasoning.join("") }],
              encrypted_content: `c2VhbGVk${padded(exchange.serial)}`
            },
            event: "response.reasoning_summary_text.delta",
            deltas: reasoning,
            place: { summary_index: 0 }
          }
        ]),
    ...(text.length === 0
      ? []
      : [
          message(text, { type: "output_text", text: text.join(""), annotations: [] }, "response.output_text.delta", 1)
        ]),
    ...(refusal.length === 0
      ? []
      : [message(refusal, { type: "refusal", refusal: refusal.join("") }, "response.refusal.delta", 2)]),
    ...toolCalls.map((call, index) => {
      const item = { id: id("fc", index), type: "function_call", call_id: call.id, name: call.name }
      return {
        id: item.id,
        begun: { ...item, status: "in_progress", arguments: "" },
        whole: { ...item, status: "completed", arguments: call.params },
        event: "response.function_call_arguments.delta",
        deltas: pieces(call.params),
        place: {}
      }
    })
  ]
}

const output = (exchange: Exchange): ReadonlyArray<Fields> => items(exchange).map(({ whole }) => whole)

const statusOf = ({ finish }: Exchange): string => {
  if (finish === undefined) return "in_progress"
  return finish === "length" || finish === "content-filter" ? "incomplete" : "completed"
}

const response = (exchange: Exchange, output: ReadonlyArray<Fields>): Fields => ({
  id: `resp_${padded(exchange.serial)}`,
  object: "response",
  created_at: Math.floor(exchange.nowMillis / 1000),
  status: statusOf(exchange),
  error: null,
  incomplete_details:
    statusOf(exchange) === "incomplete"
      ? { reason: exchange.finish === "length" ? "max_output_tokens" : "content_filter" }
      : null,
  model: exchange.model,
  output,
  parallel_tool_calls: true,
  store: false,
  usage: {
    input_tokens: exchange.usage.inputTokens,
    input_tokens_details: { cached_tokens: exchange.usage.cachedInputTokens ?? 0 },
    output_tokens: exchange.usage.outputTokens,
    output_tokens_details: { reasoning_tokens: 0 },
    total_tokens: exchange.usage.inputTokens + exchange.usage.outputTokens
  }
})
