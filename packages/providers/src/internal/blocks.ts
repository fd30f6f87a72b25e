import type * as LlmResponse from "@llm-resilience/core/LlmResponse"
import type * as ProviderError from "@llm-resilience/core/ProviderError"
import type * as Response from "effect/ai/Response"
import * as Option from "effect/Option"
import * as Json from "./json.ts"
import type { Reply } from "./transport.ts"

type Parts = Array<LlmResponse.LlmStreamPart>

type Block =
  | { readonly type: "text" | "reasoning"; metadata: Response.ProviderMetadata | undefined }
  | {
      readonly type: "tool"
      readonly call: ToolCall
      text: string
    }

/** A call of a tool as it begins: `params` are what it has when no text of them follows. */
export interface ToolCall {
  readonly id: string
  readonly name: string
  readonly params?: unknown
  readonly metadata?: Response.ProviderMetadata | undefined
}

/**
 * The blocks of a streamed answer that are open, by the key that the protocol has for them. A call of `answerTool`, through which the model
 * was asked for JSON, is the text of the answer.
 */
export class Blocks {
  private readonly answerTool: string | undefined
  private readonly open = new Map<string, Block>()
  private readonly answers = new Set<string>()
  private readonly signatures = new Map<string, string>()
  private done = false
  /** Whether anything was said, thought or called. */
  emitted = false
  /** Whether a tool was called. */
  called = false
  // Whether the parameters of a call were no JSON. The end of the budget cuts them, and only the finish reason tells.
  private unreadable = false

  constructor(answerTool?: string) {
    this.answerTool = answerTool
  }

  /** Whether the tool through which the model was asked for JSON was all that it used. */
  get answered(): boolean {
    return this.answerTool !== undefined && !this.called
  }

  isDone(): boolean {
    return this.done
  }

  startText(key: string, parts: Parts): void {
    if (this.open.has(key)) return
    this.open.set(key, { type: "text", metadata: undefined })
    parts.push({ type: "text-start", id: key })
  }

  text(key: string, delta: string, parts: Parts): void {
    if (delta === "") return
    this.startText(key, parts)
    this.emitted = true
    parts.push({ type: "text-delta", id: key, delta })
  }

  startReasoning(key: string, parts: Parts): void {
    if (this.open.has(key)) return
    this.emitted = true
    this.open.set(key, { type: "reasoning", metadata: undefined })
    parts.push({ type: "reasoning-start", id: key })
  }

  reasoning(key: string, delta: string, parts: Parts): void {
    this.startReasoning(key, parts)
    if (delta !== "") parts.push({ type: "reasoning-delta", id: key, delta })
  }

  /** Says what the end of a text or of reasoning shall carry. */
  tag(key: string, metadata: Response.ProviderMetadata): void {
    const block = this.open.get(key)
    if (block !== undefined && block.type !== "tool") block.metadata = { ...block.metadata, ...metadata }
  }

  /** Signs reasoning with a signature that comes in pieces. */
  sign(key: string, piece: string, metadata: (signature: string) => Response.ProviderMetadata): void {
    const signature = (this.signatures.get(key) ?? "") + piece
    this.signatures.set(key, signature)
    this.tag(key, metadata(signature))
  }

  tool(key: string, call: ToolCall, parts: Parts): void {
    if (call.name === this.answerTool) {
      this.answers.add(key)
      return this.startText(key, parts)
    }
    // A key that is used again belongs to another block.
    this.close(key, parts)
    this.emitted = true
    this.called = true
    this.open.set(key, { type: "tool", call, text: "" })
    parts.push({ type: "tool-params-start", id: call.id, name: call.name })
  }

  params(key: string, delta: string, parts: Parts): void {
    if (this.answers.has(key)) return this.text(key, delta, parts)
    const block = this.open.get(key)
    if (block?.type !== "tool" || delta === "") return
    block.text += delta
    parts.push({ type: "tool-params-delta", id: block.call.id, delta })
  }

  close(key: string, parts: Parts): void {
    const block = this.open.get(key)
    if (block === undefined) return
    this.open.delete(key)
    if (block.type !== "tool") {
      const metadata = block.metadata === undefined ? undefined : { metadata: block.metadata }
      parts.push({ type: `${block.type}-end`, id: key, ...metadata })
      return
    }
    const { id, metadata, name } = block.call
    parts.push({ type: "tool-params-end", id })
    const params = block.text === "" ? Option.some(block.call.params ?? {}) : Json.parse(block.text)
    if (Option.isNone(params)) this.unreadable = true
    else parts.push({ type: "tool-call", id, name, params: params.value, ...(metadata && { metadata }) })
  }

  closeAll(parts: Parts): void {
    for (const key of this.open.keys()) this.close(key, parts)
  }

  /** Ends the answer, or gives the error that it cannot end with. */
  finish(end: Response.FinishPartEncoded, reply: Reply, parts: Parts): ProviderError.ProviderError | undefined {
    this.closeAll(parts)
    if (this.unreadable && end.reason !== "length") {
      return reply.fail("InvalidResponse", "The arguments of a tool call are not JSON")
    }
    this.done = true
    parts.push(end)
    return undefined
  }
}
