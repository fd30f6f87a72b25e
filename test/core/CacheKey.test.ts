import { assert, describe, it } from "@effect/vitest"
import { CacheKey, LlmRequest } from "@llm-resilience/core"
import { Prompt, Tool } from "effect/ai"
import { Array as Arr, Redacted, Schema } from "effect"
import { createHmac } from "node:crypto"

const secret = "a secret of more than sixteen bytes"
const keys = CacheKey.make({ secret: Redacted.make(secret) })
const keyOf = (input: LlmRequest.Input, group = "chat") => keys.of(LlmRequest.make(input), group)

/** The tag of a scope is the HMAC of a JSON text that a test can write down. */
const expectedTag = (scope: string, secret: string | Uint8Array): string =>
  createHmac("sha256", secret)
    .update(JSON.stringify(["scope", scope]))
    .digest("hex")
    .slice(0, 32)

const Weather = Tool.make("weather", { description: "Tells it", parameters: Schema.Struct({ city: Schema.String }) })
const WeatherInCelsius = Tool.make("weather", {
  description: "Tells it",
  parameters: Schema.Struct({ city: Schema.String, unit: Schema.Literal("C") })
})

describe("CacheKey", () => {
  it("tags are HMAC-SHA-256, whatever the text and the secret", () => {
    const texts = ["", "acme", "ä", "日本語", "🙂🙂", "a🙂", "\u0000\u007f\u0080\u07ff\u0800\uffff", "\ud800 alone"]
    for (const length of [0, 1, 39, 40, 41, 47, 48, 55, 56, 57, 63, 64, 65, 119, 120, 1000, 5000, 70_000]) {
      texts.push("x".repeat(length), "é".repeat(length))
    }
    for (const text of texts) assert.strictEqual(keys.scope(text), expectedTag(text, secret))

    for (const length of [16, 63, 64, 65, 200]) {
      const bytes = Uint8Array.from({ length }, (_, index) => (index * 37) % 256)
      const tag = CacheKey.make({ secret: Redacted.make(bytes) }).scope("acme")
      assert.strictEqual(tag, expectedTag("acme", bytes))
    }
  })

  it("everything that can change the answer changes the key", () => {
    const user = (options: object, text = "Hi"): Prompt.RawInput => [
      { role: "user", content: [{ type: "text", text }], ...options }
    ]
    const file = (data: string | Uint8Array | URL): Prompt.RawInput => [
      { role: "user", content: [{ type: "file", mediaType: "image/png", data }] }
    ]
    const toolResult = (result: unknown): Prompt.RawInput => [
      { role: "tool", content: [{ type: "tool-result", id: "1", name: "weather", isFailure: false, result }] }
    ]
    const schema = (schema: Schema.Top, objectName = "answer"): LlmRequest.Input => ({
      prompt: "Hi",
      responseFormat: { type: "json", objectName, schema }
    })
    const inputs: ReadonlyArray<LlmRequest.Input> = [
      { prompt: "Hi" },
      { prompt: "Hi " },
      { prompt: "hi" },
      { prompt: user({ options: { anthropic: { cacheControl: { type: "ephemeral" } } } }) },
      { prompt: [{ role: "system", content: "Be kind" }, ...Prompt.make("Hi").content] },
      { prompt: [{ role: "system", content: "Be rude" }, ...Prompt.make("Hi").content] },
      { prompt: [{ role: "user", content: "Be kind" }, ...Prompt.make("Hi").content] },
      { prompt: [{ role: "assistant", content: "Be kind" }, ...Prompt.make("Hi").content] },
      { prompt: [...Prompt.make("Hi").content, { role: "assistant", content: "Be kind" }] },
      { prompt: file("aGk=") },
      { prompt: file("https://example.com/") },
      { prompt: file(new URL("https://example.com/")) },
      { prompt: file(Uint8Array.of(1, 2)) },
      { prompt: file(Uint8Array.of(1, 3)) },
      { prompt: toolResult({ a: 1 }) },
      { prompt: toolResult({ a: "1" }) },
      { prompt: toolResult(Uint8Array.of(1, 2)) },
      { prompt: toolResult(new Date(0)) },
      { prompt: toolResult("1970-01-01T00:00:00.000Z") },
      { prompt: toolResult({ "~json": "1970-01-01T00:00:00.000Z" }) },
      { prompt: toolResult(1n) },
      { prompt: toolResult(Number.NaN) },
      { prompt: toolResult(new Map([["a", 1]])) },
      { prompt: toolResult({ "~bytes": "0102" }) },
      { prompt: toolResult({ "~~bytes": "0102" }) },
      { prompt: toolResult([]) },
      { prompt: toolResult({}) },
      { prompt: toolResult(null) },
      { prompt: "Hi", scope: "acme" },
      { prompt: "Hi", scope: "" },
      { prompt: "Hi", scope: "umbrella" },
      { prompt: "Hi", scope: "acme", subject: "ann" },
      { prompt: "Hi", scope: "acme", subject: "bob" },
      { prompt: "Hi", subject: "ann" },
      { prompt: "Hi", tools: [Weather] },
      { prompt: "Hi", tools: [WeatherInCelsius] },
      { prompt: "Hi", tools: [Weather.annotate(Tool.Strict, true)] },
      { prompt: "Hi", tools: [Weather], toolChoice: "required" },
      { prompt: "Hi", tools: [Weather], toolChoice: { tool: "weather" } },
      schema(Schema.Struct({ a: Schema.String })),
      schema(Schema.Struct({ a: Schema.Number })),
      schema(Schema.Struct({ a: Schema.String }), "other"),
      { prompt: "Hi", settings: { temperature: 0 } },
      { prompt: "Hi", settings: { temperature: 1 } },
      { prompt: "Hi", settings: { topP: 1 } },
      { prompt: "Hi", settings: { seed: 1 } },
      { prompt: "Hi", settings: { maxOutputTokens: 1 } },
      { prompt: "Hi", settings: { stop: ["a"] } },
      { prompt: "Hi", settings: { stop: ["a", "b"] } },
      { prompt: "Hi", settings: { providerOptions: { openai: { user: "a" } } } }
    ]
    const all = [...inputs.map((input) => keyOf(input)?.key), keyOf({ prompt: "Hi" }, "other")?.key]

    assert.isTrue(all.every((key) => key !== undefined && CacheKey.parse(key) !== undefined))
    assert.strictEqual(new Set(all).size, all.length)
  })

  it("nothing that cannot change the answer changes the key", () => {
    const base = keyOf({ prompt: "Hi", settings: { temperature: 0, providerOptions: { a: { x: 1, y: [2] } } } })
    const same: ReadonlyArray<LlmRequest.Input> = [
      { prompt: "Hi", deadline: "1 second" },
      { prompt: "Hi", mayWait: true },
      { prompt: "Hi", cacheMatch: "exact" },
      { prompt: [{ role: "user", content: "Hi" }] },
      { prompt: [{ role: "user", content: [{ type: "text", text: "Hi", options: {} }] }] },
      { prompt: "Hi", tools: [] }
    ]
    for (const input of same) {
      const settings = { providerOptions: { a: { y: [2], x: 1 } }, stop: undefined, temperature: -0 }
      assert.deepStrictEqual(keyOf({ ...input, settings }), base)
    }
    const running = { ...LlmRequest.make({ prompt: "Hi" }), id: 7, expiresAt: 5, stepsLeft: 2, lastResort: true }
    assert.strictEqual(keys.of(running, "chat")?.key, keyOf({ prompt: "Hi" })?.key)
  })

  it("another secret gives other keys, and a short one is refused", () => {
    const other = CacheKey.make({ secret: Redacted.make("another secret of sixteen bytes") })

    assert.notStrictEqual(other.of(LlmRequest.make({ prompt: "Hi" }), "chat")?.key, keyOf({ prompt: "Hi" })?.key)
    assert.throws(() => CacheKey.make({ secret: Redacted.make("short") }), RangeError)
  })

  it("the last question is told apart when it is plain text of the user", () => {
    assert.strictEqual(keyOf({ prompt: "Hi" })?.question, "Hi")
    assert.isUndefined(keyOf({ prompt: [{ role: "assistant", content: "Hi" }] })?.question)
    assert.isUndefined(
      keyOf({ prompt: [{ role: "user", content: "Hi", options: { openai: { user: "x" } } }] })?.question
    )
    assert.strictEqual(keyOf({ prompt: "Hi" })?.partition, keyOf({ prompt: "Bye" })?.partition)
    assert.notStrictEqual(
      keyOf({ prompt: "Hi" })?.partition,
      keyOf({ prompt: "Hi", settings: { maxOutputTokens: 5 } })?.partition
    )
  })

  it("has no key for what is no JSON or too long", () => {
    const cyclic: { self?: unknown } = {}
    cyclic.self = cyclic
    const prompt = Prompt.make([
      { role: "tool", content: [{ type: "tool-result", id: "1", name: "t", isFailure: false, result: cyclic }] }
    ])

    assert.isUndefined(keyOf({ prompt }))
    assert.isUndefined(keyOf({ prompt: "x".repeat(300_000) }))
    assert.isUndefined(
      keyOf({ prompt: [{ role: "user", content: Arr.replicate({ type: "text", text: "" }, 20_000) }] })
    )
  })

  it.prop(
    "two conversations share a key only when they are the same",
    { a: Schema.Array(Schema.String), b: Schema.Array(Schema.String) },
    ({ a, b }) => {
      const prompt = (texts: ReadonlyArray<string>): Prompt.RawInput =>
        texts.map((content) => ({ role: "user", content }))
      const same = JSON.stringify(a) === JSON.stringify(b)
      assert.strictEqual(keyOf({ prompt: prompt(a) })?.key === keyOf({ prompt: prompt(b) })?.key, same)
    }
  )
})
