/**
 * What an answer is stored under: a key that two requests share exactly when one's answer is the other's, and only within one scope.
 *
 * A key is an HMAC-SHA-256 over canonical JSON (RFC 8785) of everything that can change the answer: the messages with their options, the
 * tools with their schemas, the tool choice, the response format with its schema, the settings, the group of models. It does not change
 * with what cannot: deadlines, whether a request may wait, the order of fields.
 *
 * It belongs to a `partition`, a hard wall: an HMAC over the scope (the tenant), the subject (the person, or nobody in particular) and all
 * of the above except the last question. The partition is part of the key and of the stored entry, and it is compared again when the entry
 * was fetched. Answers to similar questions are looked for within one partition only.
 *
 * Without the secret, the tags in a store tell nothing about who asked what.
 *
 * @since 0.1.0
 */
import * as Tool from "effect/ai/Tool"
import type * as Prompt from "effect/ai/Prompt"
import * as Redacted from "effect/Redacted"
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"
import * as Hash from "./internal/cacheHash.ts"
import * as Json from "./internal/cacheJson.ts"
import type { LlmRequest } from "./LlmRequest.ts"

/**
 * Where an answer is stored.
 *
 * **Details**
 *
 * `scope` and `subject` are tags of whom the answer is for, `hash` names the request within them. In a store they never appear in clear.
 *
 * @category models
 * @since 0.1.0
 */
export interface Address {
  readonly scope: string
  readonly subject: string
  readonly hash: string
}

/**
 * The key of a request.
 *
 * **Details**
 *
 * `key` is the address as one text. `question` is the last message when it is a plain text of the user, which another question may
 * resemble; it is absent when the message has files or options.
 *
 * @category models
 * @since 0.1.0
 */
export interface CacheKey extends Address {
  readonly key: string
  readonly partition: string
  readonly question?: string | undefined
}

/**
 * Makes keys with one secret.
 *
 * **Details**
 *
 * `of` returns nothing for a request that cannot be written as JSON, or only as one longer than `maxLength`. `scope` and `subject` return
 * the tags under which everything of a tenant and of a person is stored.
 *
 * @category models
 * @since 0.1.0
 */
export interface Keys {
  readonly of: (request: LlmRequest, modelGroup: string) => CacheKey | undefined
  readonly scope: (scope: string | undefined) => string
  readonly subject: (scope: string | undefined, subject: string | undefined) => string
}

/**
 * Creates what makes keys.
 *
 * **Details**
 *
 * `maxLength` is how many characters the canonical JSON of a request may have, 262 144 by default: a longer one would hold up everybody
 * else for milliseconds.
 *
 * **Example** (Comparing requests)
 *
 * ```ts import.meta.vitest
 * import { CacheKey, LlmRequest } from "@llm-resilience/core"
 * import { Redacted } from "effect"
 *
 * const keys = CacheKey.make({ secret: Redacted.make("a secret that nobody knows") })
 * const key = (input: LlmRequest.Input) => keys.of(LlmRequest.make(input), "chat")?.key
 *
 * const same = key({ prompt: "Hi", deadline: "5 seconds" }) === key({ prompt: "Hi" })
 * const hotter = key({ prompt: "Hi", settings: { temperature: 1 } }) === key({ prompt: "Hi" })
 * const another = key({ prompt: "Hi", scope: "acme" }) === key({ prompt: "Hi", scope: "umbrella" })
 *
 * same // => true
 * hotter // => false
 * another // => false
 * ```
 *
 * @category constructors
 * @since 0.1.0
 */
export const make = (options: {
  readonly secret: Redacted.Redacted<string | Uint8Array>
  readonly maxLength?: number | undefined
}): Keys => {
  const secret = Redacted.value(options.secret)
  const maxLength = options.maxLength ?? 262_144
  if (secret.length < 16) throw new RangeError(`CacheKey.make: secret must be at least 16 bytes, got ${secret.length}`)
  const { hex } = Hash.make(typeof secret === "string" ? Hash.bytes(secret) : secret)
  const tags = new Map<string, string>()
  const tag = (whom: string): string => {
    const known = tags.get(whom)
    if (known !== undefined) return known
    if (tags.size >= maxTags) tags.clear()
    const made = hex(whom).slice(0, 32)
    tags.set(whom, made)
    return made
  }
  const scope: Keys["scope"] = (scope) => tag(JSON.stringify(["scope", scope]))
  const subject: Keys["subject"] = (scope, subject) => tag(JSON.stringify(["subject", scope, subject]))
  return {
    scope,
    subject,
    of: (request, modelGroup) =>
      // A tool result of the application may be anything, cycles and throwing getters included.
      Result.getOrUndefined(
        Result.try((): CacheKey => {
          const messages = request.prompt.content
          const last = messages.at(-1)
          const asked = last?.role === "user" ? last : undefined
          const before = asked === undefined ? messages : messages.slice(0, -1)
          const partition = hex(
            Json.canonical(
              [
                version,
                request.scope ?? null,
                request.subject ?? null,
                modelGroup,
                request.settings,
                request.toolChoice,
                request.tools.map(toolShape),
                formatShape(request.responseFormat),
                before.map(messageShape)
              ],
              maxLength
            )
          )
          const hash = hex(Json.canonical([partition, asked === undefined ? null : messageShape(asked)], maxLength))
          const address = { scope: scope(request.scope), subject: subject(request.scope, request.subject), hash }
          return { ...address, key: format(address), partition, question: questionOf(asked) }
        })
      )
  }
}

/** The tags of so many scopes and subjects are remembered; to make one costs as much as a short key. */
const maxTags = 1024

// Whatever changes the meaning of a key changes this, and old entries are not found any more.
const version = "llm-resilience/1"

const toolShape = (tool: Tool.Any): string => {
  const known = toolShapes.get(tool)
  if (known !== undefined) return known
  const shape = Tool.isProviderDefined(tool)
    ? { name: tool.name, id: tool.id, args: tool.args }
    : {
        name: tool.name,
        description: Tool.getDescription(tool),
        parameters: Tool.getJsonSchema(tool),
        strict: Tool.getStrictMode(tool)
      }
  const text = Json.canonical(shape)
  toolShapes.set(tool, text)
  return text
}

// Writing a schema takes longer than all the rest of a key, and tools and schemas are few and live long.
const toolShapes = new WeakMap<Tool.Any, string>()
const schemaShapes = new WeakMap<Schema.Top, string>()

const formatShape = (format: LlmRequest["responseFormat"]): unknown => {
  if (format.type === "text") return format.type
  const known = schemaShapes.get(format.schema) ?? Json.canonical(Schema.toJsonSchemaDocument(format.schema))
  schemaShapes.set(format.schema, known)
  return [format.type, format.objectName, known]
}

// Written field by field: messages and parts carry marks of effect that are no part of the question.
const messageShape = (message: Prompt.Message): unknown => ({
  role: message.role,
  content: typeof message.content === "string" ? message.content : message.content.map(partShape),
  options: message.options
})

const partShape = (part: Prompt.Part): unknown =>
  part.type === "text"
    ? { type: part.type, text: part.text, options: part.options }
    : Object.fromEntries(Object.entries(part).filter(([name]) => !name.startsWith("~effect/")))

const questionOf = (message: Prompt.UserMessage | undefined): string | undefined => {
  if (message === undefined || hasOptions(message)) return undefined
  const texts = message.content.flatMap((part) => (part.type === "text" && !hasOptions(part) ? [part.text] : []))
  return texts.length === message.content.length && texts.length > 0 ? texts.join("\n") : undefined
}

const hasOptions = ({ options }: { readonly options: object }): boolean => Object.keys(options).length > 0

/**
 * Writes an address as one text.
 *
 * @category formatting
 * @since 0.1.0
 */
export const format = (address: Address): string => `${address.scope}/${address.subject}/${address.hash}`

/**
 * Reads an address, if the text is one.
 *
 * @category conversions
 * @since 0.1.0
 */
export const parse = (key: string): Address | undefined => {
  const match = /^([0-9a-f]{32})\/([0-9a-f]{32})\/([0-9a-f]{64})$/.exec(key)
  if (match === null) return undefined
  const [, scope = "", subject = "", hash = ""] = match
  return { scope, subject, hash }
}
