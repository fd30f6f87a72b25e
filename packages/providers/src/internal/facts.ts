import * as Option from "effect/Option"
import * as Json from "./json.ts"

/**
 * What the body of an error says, whatever its shape.
 *
 * Bodies come as `{error: {message, type, code}}`, `{error: "…", code}`, `{type: "error", error}`, `{detail}`, `[{error}]`,
 * `{object: "error"}`, JSON inside the message of another gateway, an HTML page or plain text. Reading all of them by one walk
 * over the fields that carry meaning is shorter, and survives more, than one schema for each.
 */
export interface Facts {
  /** Machine-readable names (`type`, `code`, `status`, `reason`, …): lower case, with underscores. */
  readonly codes: ReadonlyArray<string>
  /** All sentences in lower case, without addresses (`…/settings/billing` is not a statement about billing). */
  readonly text: string
  /** The sentence for humans. */
  readonly message: string | undefined
  /** A status code inside the body. */
  readonly status: number | undefined
  /** Google's `RetryInfo`. */
  readonly retryDelay: string | undefined
  readonly requestId: string | undefined
}

// An error body is a few lines. More than this is an attempt to keep us busy.
const maxText = 8192
const maxDepth = 6
const maxNodes = 200
const maxSentences = 16

const sentenceKeys = new Set([
  "message",
  "msg",
  "detail",
  "error",
  "raw",
  "error_description",
  "error_message",
  "explanation"
])
const codeKeys = new Set([
  "code",
  "__type",
  "type",
  "status",
  "error_code",
  "error_type",
  "errortype",
  "reason",
  "quotaid",
  "category"
])
const containerKeys = new Set([
  "error",
  "errors",
  "detail",
  "details",
  "metadata",
  "innererror",
  "inner_error",
  "cause",
  "violations",
  "response",
  "raw"
])

/** `named` is the kind of error that AWS puts into a header, before an address: `ValidationException:http://…`. */
export const of = (body: string, named?: string): Facts => {
  const text = body.slice(0, maxText * 8)
  const walk = new Walk()
  if (named !== undefined) walk.code(named.replace(/:.*$/s, ""))
  const json = Json.parse(text)
  if (Option.isSome(json)) walk.visit(json.value, 0)
  else if (markup.test(text)) walk.sentence(readable(text))
  else walk.sentence(text)
  return walk.facts()
}

const markup = /<\s*(?:!doctype|html|head|body|title)\b/i

/** What a reader would see of a page: its title and its headline. */
const readable = (html: string): string => {
  const page = html.slice(0, maxText)
  const title = /<title[^>]{0,200}>([^<]{0,300})/i.exec(page)?.[1]
  const headline = /<h1[^>]{0,200}>([^<]{0,300})/i.exec(page)?.[1]
  const found = [title, headline].filter((line) => line !== undefined && line.trim() !== "")
  return found.length > 0 ? [...new Set(found)].join(": ") : page.replace(/<[^>]{0,500}>/g, " ")
}

class Walk {
  private readonly codes = new Set<string>()
  private readonly sentences: Array<string> = []
  private status: number | undefined
  private retryDelay: string | undefined
  private requestId: string | undefined
  private nodes = 0

  visit(value: unknown, depth: number): void {
    if (depth > maxDepth || ++this.nodes > maxNodes) return
    if (typeof value === "string") return this.sentence(value, depth)
    if (Array.isArray(value)) {
      for (const item of value.slice(0, maxNodes)) this.visit(item, depth + 1)
      return
    }
    if (!Json.isObject(value)) return
    for (const name in value) {
      if (++this.nodes > maxNodes) return
      this.field(name.toLowerCase(), value[name], depth)
    }
  }

  private field(name: string, value: unknown, depth: number): void {
    if (typeof value === "string") {
      if (sentenceKeys.has(name)) this.sentence(value, depth)
      else if (codeKeys.has(name)) this.code(value)
      else if (name === "retrydelay") this.retryDelay ??= value.slice(0, 40)
      else if (name === "request_id" || name === "requestid") this.requestId ??= value
    } else if (typeof value === "number") {
      if (codeKeys.has(name) || name === "status_code" || name === "originalstatuscode") this.number(value)
    } else if (containerKeys.has(name)) {
      this.visit(value, depth + 1)
    }
  }

  private number(value: number): void {
    if (Number.isInteger(value) && value >= 400 && value < 600) this.status ??= value
  }

  code(value: string): void {
    if (value.length === 0 || value.length > 120) return
    if (/^\d{3}$/.test(value)) return this.number(Number(value))
    this.codes.add(value.toLowerCase().replace(/[^a-z\d]+/g, "_"))
  }

  sentence(value: string, depth = 0): void {
    const text = value.slice(0, maxText)
    // Gateways pass the answer of the provider behind them on as text, sometimes with a few words in front of it.
    const start = text.search(/[[{]/)
    if (start !== -1 && depth <= maxDepth && /"(?:error|message|code|detail)"/.test(text)) {
      const inner = Json.parse(text.slice(start, Math.max(text.lastIndexOf("}"), text.lastIndexOf("]")) + 1))
      if (Option.isSome(inner)) {
        const before = this.sentences.length
        this.visit(inner.value, depth + 1)
        if (this.sentences.length > before) return
      }
    }
    if (text.trim() !== "" && this.sentences.length < maxSentences) this.sentences.push(text)
  }

  facts(): Facts {
    return {
      codes: [...this.codes],
      text: this.sentences
        .join("\n")
        .slice(0, maxText)
        .toLowerCase()
        .replace(/https?:\/\/\S{1,500}/g, " "),
      // A gateway's own sentence says little ("Provider returned error"); the longest one is the one with the reason.
      message: this.sentences.reduce<string | undefined>(
        (longest, sentence) => (longest === undefined || sentence.length > longest.length ? sentence : longest),
        undefined
      ),
      status: this.status,
      retryDelay: this.retryDelay,
      requestId: this.requestId
    }
  }
}
