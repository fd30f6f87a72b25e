import type * as Response from "effect/ai/Response"
import type { LlmStreamPart, Served, Usage } from "../LlmResponse.ts"
import * as Seam from "./seam.ts"

/** What the reader of a stream has seen so far, as far as it matters for going on with another one. */
export interface Emitted {
  readonly text: string
  /** The text block that is still open, if one is. */
  readonly block: string | undefined
  /** The reasoning block that is still open, if one is. */
  readonly reasoning: string | undefined
  /** Something that cannot be compared or continued was seen: a tool call, a file, a source. */
  readonly beyondText: boolean
}

export const nothing: Emitted = { text: "", block: undefined, reasoning: undefined, beyondText: false }

/** A text that is longer than this is not kept, and so not recovered. */
const maxText = 1_000_000

/** Adds a part to what the reader has seen. */
export const see = (emitted: Emitted, part: LlmStreamPart): Emitted => {
  switch (part.type) {
    case "text-start":
      return { ...emitted, block: part.id }
    case "text-delta":
      return emitted.text.length > maxText
        ? { ...emitted, beyondText: true }
        : { ...emitted, text: emitted.text + part.delta, block: part.id }
    case "text-end":
      return { ...emitted, block: undefined }
    case "reasoning-start":
      return { ...emitted, reasoning: part.id }
    case "reasoning-end":
      return { ...emitted, reasoning: undefined }
    case "reasoning-delta":
    case "response-metadata":
    case "served":
    case "finish":
      return emitted
    default:
      return { ...emitted, beyondText: true }
  }
}

/** A new stream on its way to continue an old one. */
export interface Joint {
  readonly seam: Seam.Seam
  /** How many times this answer was joined, to keep the names of blocks apart. */
  readonly round: number
  /** The block of the old stream that the new one's text goes on in. */
  readonly into: string | undefined
  /** A block of the old stream that has to be closed before anything else is said. */
  readonly closing: string | undefined
  readonly aliases: ReadonlyMap<string, string>
  readonly tokensBefore: number
}

export const joint = (emitted: Emitted, seam: Seam.Seam, round: number, tokensBefore: number): Joint => ({
  seam,
  round,
  into: emitted.block,
  closing: emitted.reasoning,
  aliases: new Map(),
  tokensBefore
})

/**
 * Passes parts of the new stream on as a continuation of the old one: starts and preamble are dropped, text goes through the seam, names
 * are kept apart, and the usage at the end counts what was said before. `undefined` says that it is another answer.
 */
export const pass = (
  joint: Joint,
  parts: ReadonlyArray<LlmStreamPart>
): readonly [Joint, ReadonlyArray<LlmStreamPart>] | undefined => {
  let next = joint
  const out: Array<LlmStreamPart> = []
  const say = (...said: ReadonlyArray<LlmStreamPart>): void => {
    if (next.closing !== undefined) {
      out.push({ type: "reasoning-end", id: next.closing })
      next = { ...next, closing: undefined }
    }
    out.push(...said)
  }
  const named = (id: string): string => `${id}~${next.round}`
  // The first text goes on in the block that the old stream left open; later blocks are blocks of their own.
  const speak = (id: string, text: string): void => {
    const known = next.aliases.get(id)
    const alias = known ?? next.into ?? named(id)
    if (known === undefined) {
      if (next.into === undefined) say({ type: "text-start", id: alias })
      next = { ...next, into: undefined, aliases: new Map([...next.aliases, [id, alias]]) }
    }
    say({ type: "text-delta", id: alias, delta: text })
  }
  let lastText = ""
  for (const part of parts) {
    switch (part.type) {
      case "served":
      case "response-metadata":
      case "text-start":
        break
      case "text-delta": {
        lastText = part.id
        const step = Seam.feed(next.seam, part.delta)
        if (step === undefined) return undefined
        next = { ...next, seam: step[0] }
        if (step[1] !== "") speak(part.id, step[1])
        break
      }
      case "text-end": {
        const alias = next.aliases.get(part.id)
        if (alias !== undefined) say({ type: "text-end", id: alias })
        break
      }
      case "reasoning-start":
      case "reasoning-delta":
      case "reasoning-end":
        if (next.seam._tag === "Open" && next.aliases.size > 0) say({ ...part, id: named(part.id) })
        break
      case "finish": {
        const rest = Seam.finish(next.seam)
        if (rest === undefined) return undefined
        if (rest !== "") {
          speak(lastText, rest)
          const alias = next.aliases.get(lastText)
          if (alias !== undefined) say({ type: "text-end", id: alias })
        }
        if (next.into !== undefined) say({ type: "text-end", id: next.into })
        say(withUsage(part, next.tokensBefore))
        break
      }
      default:
        if (next.seam._tag !== "Open") return undefined
        if (next.into !== undefined) {
          say({ type: "text-end", id: next.into })
          next = { ...next, into: undefined }
        }
        say(part)
    }
  }
  return [next, out]
}

/** Nobody reports the usage of a stream that broke, so it is estimated at four characters a token and marked as such. */
export const estimateTokens = (text: string): number => Math.ceil(text.length / 4)

const withUsage = (part: Response.FinishPartEncoded, tokensBefore: number): Response.FinishPartEncoded => ({
  ...part,
  usage: addOutput(part.usage, tokensBefore),
  metadata: {
    ...part.metadata,
    "llm-resilience": { ...ours(part), estimatedOutputTokens: estimatedBy(part) + tokensBefore }
  }
})

const estimatedBy = (part: Response.FinishPartEncoded): number => {
  const mark: { readonly estimatedOutputTokens?: unknown } = ours(part)
  return typeof mark.estimatedOutputTokens === "number" ? mark.estimatedOutputTokens : 0
}

const ours = (part: Response.FinishPartEncoded): object => {
  const mark = part.metadata?.["llm-resilience"]
  return typeof mark === "object" && mark !== null && !Array.isArray(mark) ? mark : {}
}

const addOutput = (usage: Usage, tokens: number): Usage => ({
  ...usage,
  // A sum of which one part is unknown is unknown.
  outputTokens: {
    ...usage.outputTokens,
    ...(usage.outputTokens.total === undefined ? undefined : { total: usage.outputTokens.total + tokens })
  }
})

/** The record of an answer that several providers wrote. */
export const together = (before: Served, after: Served): Served => ({
  ...after,
  degraded: after.degraded ?? before.degraded,
  notice: after.notice ?? before.notice,
  contributors: [...writers(before), ...writers(after)]
})

const writers = ({ contributors, model, provider }: Served): NonNullable<Served["contributors"]> =>
  contributors ?? [{ provider, model }]
