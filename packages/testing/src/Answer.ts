/**
 * What an {@link Upstream} answers when nothing is wrong, in the words of no protocol: the same answer is spoken in whichever the
 * client uses.
 *
 * @since 0.1.0
 */
import type * as Response from "effect/ai/Response"
import type * as Schema from "effect/Schema"

/**
 * An answer, or a function that finds it.
 *
 * @category models
 * @since 0.1.0
 */
export type Answer = string | Reply | ((question: Question) => string | Reply)

/**
 * An answer in all detail. Every field is optional; without any of them the model says nothing and stops.
 *
 * **Details**
 *
 * `refusal` is OpenAI's field of that name, and for the others text with a stop reason that says so. `reasoning` is `reasoning_content`
 * for OpenAI-compatible servers and a block or item of its own for the others. `finish` is translated to the protocol; any other word goes
 * on the wire as it is. It defaults to `tool-calls` when there are tool calls, else to `stop`. `usage` defaults to one token for each
 * word of the prompt and for each part of the answer. `model` defaults to the one that was asked.
 *
 * @category models
 * @since 0.1.0
 */
export interface Reply {
  readonly text?: string | undefined
  readonly reasoning?: string | undefined
  readonly refusal?: string | undefined
  readonly toolCalls?: ReadonlyArray<ToolCall> | undefined
  readonly finish?: Response.FinishReason | (string & {}) | undefined
  readonly usage?: Usage | undefined
  readonly model?: string | undefined
}

/**
 * A call of a tool. `params` that are a string go on the wire as they are, so that they can be broken; `id` defaults to one in the
 * style of the protocol.
 *
 * @category models
 * @since 0.1.0
 */
export interface ToolCall {
  readonly id?: string | undefined
  readonly name: string
  readonly params: Schema.Json
}

/**
 * Tokens that an answer used.
 *
 * @category models
 * @since 0.1.0
 */
export interface Usage {
  readonly inputTokens: number
  readonly outputTokens: number
  readonly cachedInputTokens?: number | undefined
}

/**
 * The protocols that an {@link Upstream} speaks: OpenAI's chat completions and Responses, Anthropic's Messages, Amazon Bedrock's Converse
 * and Google's Gemini.
 *
 * @category models
 * @since 0.1.0
 */
export type Protocol = "openai" | "openai-responses" | "anthropic" | "bedrock" | "gemini"

/**
 * What was asked, decoded from the request.
 *
 * **Details**
 *
 * `text` is what the last message of the user says. `index` counts the requests to the server from 0. `body` is the request
 * as it came, for everything that is not decoded.
 *
 * @category models
 * @since 0.1.0
 */
export interface Question {
  readonly protocol: Protocol
  readonly index: number
  readonly model: string
  readonly stream: boolean
  readonly system: string
  readonly messages: ReadonlyArray<{ readonly role: string; readonly text: string }>
  readonly text: string
  readonly tools: ReadonlyArray<string>
  readonly body: unknown
}
