import * as Result from "effect/Result"
import * as Schema from "effect/Schema"
import type { Protocol, Question, Reply, Usage } from "../Answer.ts"
import { pieces, tokens } from "./tokens.ts"

/** One protocol: how it asks, answers, streams and complains. */
export interface Wire {
  readonly protocol: Question["protocol"]
  /** Which paths are asked for answers in this protocol. */
  readonly path: RegExp
  /** The header that holds the key; a bearer token does in every protocol. */
  readonly keyHeader?: string | undefined
  readonly decode: (request: WireRequest) => Result.Result<Asked, string>
  readonly whole: (exchange: Exchange) => Schema.Json
  readonly frames: (exchange: Exchange) => ReadonlyArray<Frame>
  readonly headers: (serial: number, nowMillis: number) => { readonly [name: string]: string }
  readonly error: (status: number, description: string | undefined, serial: number) => Schema.Json
  readonly errorFrame: (body: Schema.Json) => string | Uint8Array
  readonly overloaded: number
  readonly malformed: string | Uint8Array
  /** What a stream calls itself, when it is not made of server-sent events. */
  readonly contentType?: string | undefined
}

/** What a protocol decodes a question from. */
export interface WireRequest {
  readonly body: unknown
  readonly path: string
  readonly header: (name: string) => string | undefined
}

/** A question without its place in the order of requests, and whether a stream ends with its usage. */
export interface Asked {
  readonly question: Omit<Question, "index">
  readonly usageInStream: boolean
}

/** Everything that an answer on the wire is made of. `finish` is absent when the server shall forget it. */
export interface Exchange {
  readonly asked: Asked
  readonly serial: number
  readonly nowMillis: number
  readonly model: string
  readonly reasoning: ReadonlyArray<string>
  readonly text: ReadonlyArray<string>
  readonly refusal: ReadonlyArray<string>
  readonly toolCalls: ReadonlyArray<{ readonly id: string; readonly name: string; readonly params: string }>
  readonly finish: string | undefined
  readonly usage: Usage
}

/**
 * One event of a stream. Faults strike after a number of `part`s; `preamble` is what comes before any content, `block` opens or
 * closes what parts belong to.
 */
export interface Frame {
  readonly kind: "preamble" | "block" | "part" | "finish" | "usage" | "terminator"
  readonly text: string | Uint8Array
}

/** The fields of a JSON object. */
export interface Fields {
  readonly [name: string]: Schema.Json
}

/** One server-sent event. */
export const event = (name: string | undefined, body: Schema.Json): string =>
  `${name === undefined ? "" : `event: ${name}\n`}data: ${typeof body === "string" ? body : JSON.stringify(body)}\n\n`

/** The parameters of a call as JSON, or as the text they are when they are broken. */
export const parsed = (params: string): Schema.Json =>
  Result.getOrElse(
    Schema.decodeUnknownResult(Schema.fromJsonString(Schema.Json))(params === "" ? "{}" : params),
    () => params
  )

/** Translates a reply to the exchange of one request. */
export const exchange = (options: {
  readonly asked: Asked
  readonly reply: string | Reply
  readonly serial: number
  readonly nowMillis: number
  readonly withoutFinish: boolean
}): Exchange => {
  const { asked, serial, nowMillis } = options
  const reply: Reply = typeof options.reply === "string" ? { text: options.reply } : options.reply
  const prefix = idPrefixes[asked.question.protocol]
  const toolCalls = (reply.toolCalls ?? []).map((call, index) => ({
    id: call.id ?? `${prefix}${padded(serial * 100 + index)}`,
    name: call.name,
    params: typeof call.params === "string" ? call.params : JSON.stringify(call.params)
  }))
  const reasoning = tokens(reply.reasoning ?? "")
  const text = tokens(reply.text ?? "")
  const refusal = tokens(reply.refusal ?? "")
  const outputTokens = toolCalls.reduce(
    (count, call) => count + pieces(call.params).length,
    reasoning.length + text.length + refusal.length
  )
  const inputTokens = asked.question.messages.reduce(
    (count, message) => count + tokens(message.text).length,
    tokens(asked.question.system).length
  )
  return {
    asked,
    serial,
    nowMillis,
    model: reply.model ?? asked.question.model,
    reasoning,
    text,
    refusal,
    toolCalls,
    finish: options.withoutFinish ? undefined : (reply.finish ?? (toolCalls.length > 0 ? "tool-calls" : "stop")),
    usage: reply.usage ?? { inputTokens, outputTokens }
  }
}

const idPrefixes: { readonly [P in Protocol]: string } = {
  openai: "call_",
  "openai-responses": "call_",
  anthropic: "toolu_",
  bedrock: "tooluse_",
  gemini: "call_"
}

/** A number in the shape of the opaque ids that providers give out. */
export const padded = (serial: number): string => String(serial).padStart(24, "0")

/** Counts the parts of a stream. */
export const countParts = (frames: ReadonlyArray<Frame>): number =>
  frames.reduce((count, frame) => (frame.kind === "part" ? count + 1 : count), 0)
