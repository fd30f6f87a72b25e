import type * as Response from "effect/ai/Response"
import type { NonEmptyReadonlyArray } from "effect/Array"
import * as Arr from "effect/Array"
import type { LlmRequest } from "../LlmRequest.ts"
import type { LlmResponse, LlmStreamPart, Served } from "../LlmResponse.ts"
import * as Parts from "../LlmResponse.ts"
import * as Loop from "../Loop.ts"
import type { Reason } from "../ProviderError.ts"
import * as Refusal from "../Refusal.ts"

/** Which checks are made, with their defaults filled in. */
export interface Checks {
  readonly empty: "fail" | "off"
  readonly loop: "fail" | "notice" | "off"
  readonly loopLimits: Loop.Options | undefined
  readonly truncated: "fail" | "notice" | "off"
  readonly refusal: "fail" | "notice" | "off"
  readonly schema: "repair" | "fail" | "notice" | "off"
  readonly maxText: number
}

/** What the checks look at: a whole answer, or a stream that has ended. */
export interface Said {
  readonly text: string
  readonly isWhole: boolean
  readonly toolCalls: number
  readonly finishReason: Response.FinishReason
  readonly hasSubstance: boolean
  readonly loop: Loop.Loop | undefined
}

/** What a check found. */
export type Finding = { readonly _tag: "Accepted" } | { readonly _tag: "Noticed" } | Rejected

export interface Rejected {
  readonly _tag: "Rejected"
  readonly reason: Reason
  readonly description: string
  readonly shouldRetry?: boolean | undefined
}

const accepted: Finding = { _tag: "Accepted" }
const noticed: Finding = { _tag: "Noticed" }

export const cutShort: Rejected = {
  _tag: "Rejected",
  reason: "TruncatedOutput",
  description: "The answer was cut off at its length"
}

/** Makes the checks that need nobody's help. */
export const plainly = (said: Said, checks: Checks, request: LlmRequest): Finding => {
  if (!said.hasSubstance && checks.empty === "fail") return nothing(said.finishReason)
  let isNoticed = false
  if (said.loop !== undefined) {
    if (checks.loop === "fail") return looped(said.loop)
    isNoticed = true
  }
  if (said.finishReason === "length" && checks.truncated !== "off" && wantsAll(request)) {
    if (checks.truncated === "fail") return cutShort
    isNoticed = true
  }
  if (checks.refusal !== "off" && said.toolCalls === 0 && Refusal.is(said.text)) {
    if (checks.refusal === "fail") return declined
    isNoticed = true
  }
  return isNoticed ? noticed : accepted
}

const nothing = (finishReason: Response.FinishReason): Rejected => {
  switch (finishReason) {
    case "content-filter":
      return {
        _tag: "Rejected",
        reason: "ContentPolicy",
        description: "The provider's content filter withheld the answer"
      }
    case "length":
      // The same number of tokens would be used up in the same way.
      return {
        _tag: "Rejected",
        reason: "EmptyOutput",
        description: "The tokens were used up before the answer began",
        shouldRetry: false
      }
    default:
      return {
        _tag: "Rejected",
        reason: "EmptyOutput",
        description: "The answer has no text, no tool call and no file"
      }
  }
}

export const looped = ({ length, period }: Loop.Loop): Rejected => ({
  _tag: "Rejected",
  reason: "Loop",
  description: `The last ${length} characters are the same ${period}, again and again`
})

const declined: Rejected = {
  _tag: "Rejected",
  reason: "Refusal",
  description: "The answer is short and begins as a refusal"
}

/** Who bounds the answer has asked for that much. */
const wantsAll = (request: LlmRequest): boolean => request.settings.maxOutputTokens === undefined

/**
 * What the answer goes on with: the text of an assistant message at the end of the prompt. An answer that continues it, as in a stream
 * that is recovered, makes sense only together with it.
 */
export const continued = ({ prompt }: LlmRequest): string => {
  if (prompt.content.at(-1)?.role !== "assistant") return ""
  const start = prompt.content.findLastIndex((message) => message.role !== "assistant") + 1
  return prompt.content
    .slice(start)
    .flatMap((message) => (message.role === "assistant" ? message.content : []))
    .reduce((text, part) => (part.type === "text" ? text + part.text : text), "")
}

/** Reads a whole answer. */
export const saidOf = (response: LlmResponse, request: LlmRequest, checks: Checks): Said => {
  const detector = checks.loop === "off" ? undefined : Loop.make(checks.loopLimits)
  let text = continued(request)
  let loop: Loop.Loop | undefined
  // Whoever has nothing to add to what stands there already has finished it.
  let hasSubstance = isSaid(text)
  let toolCalls = 0
  let finishReason: Response.FinishReason = "unknown"
  for (const part of response.content) {
    hasSubstance ||= isSubstance(part)
    switch (part.type) {
      case "text":
        text += part.text
        loop ??= detector?.push(part.text)
        break
      case "reasoning":
        loop ??= detector?.push(part.text)
        break
      case "tool-call":
        if (part.providerExecuted !== true) toolCalls++
        break
      case "finish":
        finishReason = part.reason
        break
      default:
    }
  }
  if (finishReason === "length") loop ??= detector?.end()
  return { text, isWhole: true, toolCalls, finishReason, hasSubstance, loop }
}

const isSubstance = (part: Response.PartEncoded | LlmStreamPart): boolean => {
  switch (part.type) {
    case "text":
      return isSaid(part.text)
    case "text-delta":
      return isSaid(part.delta)
    case "tool-call":
    case "tool-result":
    case "tool-approval-request":
    case "tool-params-start":
    case "file":
      return true
    default:
      return false
  }
}

// White space and characters of no width are nothing that anybody could read.
const isSaid = (text: string): boolean => /[^\s\u200b-\u200d\u2060\ufeff]/.test(text)

type StreamParts = NonEmptyReadonlyArray<LlmStreamPart>

/** What to do with the parts that were just read. */
export type Step =
  | { readonly _tag: "Pass" | "Finished"; readonly parts: StreamParts }
  | { readonly _tag: "Hold" }
  | { readonly _tag: "Looped"; readonly loop: Loop.Loop }

/** A stream as it is read. */
export interface Reading {
  readonly read: (parts: StreamParts) => Step
  readonly said: () => Said
  /** Whether the reader has been given content. */
  readonly isCommitted: () => boolean
  /** The last record of how the stream is served, if it brought one. */
  readonly served: () => Served | undefined
}

/** So many parts are never held back, whatever is in them. */
const maxHeld = 1024

const hold: Step = { _tag: "Hold" }

/** Begins to read a stream. `keepsText` says that the whole text is needed at the end. */
export const reading = (checks: Checks, request: LlmRequest, keepsText: boolean): Reading => {
  const detector = checks.loop === "off" ? undefined : Loop.make(checks.loopLimits)
  const before = continued(request)
  const maxText = keepsText ? checks.maxText : checks.refusal === "off" ? 0 : Refusal.maxLength + 1
  let text = before
  let isWhole = true
  let hasSubstance = isSaid(before)
  let toolCalls = 0
  let finishReason: Response.FinishReason = "unknown"
  let loop: Loop.Loop | undefined
  let served: Served | undefined
  let committed = false
  let opening = checks.refusal === "fail" ? "maybe" : "no"
  let held: Array<LlmStreamPart> = []

  const hear = (delta: string): void => {
    if (loop === undefined && detector !== undefined) loop = detector.push(delta)
  }

  const take = (part: LlmStreamPart): void => {
    switch (part.type) {
      case "text-delta":
        if (part.delta === "") return
        hasSubstance ||= isSaid(part.delta)
        if (text.length < maxText) text += part.delta
        else isWhole = false
        hear(part.delta)
        return
      case "reasoning-delta":
        hear(part.delta)
        return
      case "tool-call":
        hasSubstance = true
        if (part.providerExecuted !== true) toolCalls++
        return
      case "served":
        served = part.served
        return
      case "finish":
        finishReason = part.reason
        if (part.reason === "length") loop ??= detector?.end()
        return
      default:
        hasSubstance ||= isSubstance(part)
    }
  }

  // Holds the text back while it is, or could become, a refusal. Reasoning before it passes.
  const undecided = (): boolean => {
    if (opening === "no" || text === "") return false
    if (opening === "maybe") opening = Refusal.begins(text)
    if (toolCalls > 0 || text.length > Refusal.maxLength || held.length > maxHeld) opening = "no"
    return opening !== "no"
  }

  return {
    read: (parts) => {
      let isFinished = false
      for (const part of parts) {
        take(part)
        if (part.type === "finish") isFinished = true
      }
      if (loop !== undefined && checks.loop === "fail") return { _tag: "Looped", loop }
      if (!isFinished && opening !== "no" && undecided()) {
        held.push(...parts)
        return hold
      }
      const all: StreamParts = held.length === 0 ? parts : Arr.appendAll(held, parts)
      held = []
      if (isFinished) return { _tag: "Finished", parts: all }
      committed ||= all.some(Parts.isContent)
      return { _tag: "Pass", parts: all }
    },
    said: () => ({ text, isWhole, toolCalls, finishReason, hasSubstance, loop }),
    isCommitted: () => committed,
    served: () => served
  }
}
