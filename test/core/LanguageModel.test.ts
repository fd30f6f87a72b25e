import { assert, describe, it } from "@effect/vitest"
import {
  LlmRequest,
  LlmResilience,
  LlmResponse,
  LlmUnavailable,
  Policy,
  Provider,
  ProviderError
} from "@llm-resilience/core"
import { ScriptedProvider } from "@llm-resilience/testing"
import { Array, Context, DateTime, Duration, Effect, Fiber, Layer, Option, Redacted, Ref, Schema, Stream } from "effect"
import {
  AiError,
  Chat,
  LanguageModel,
  Model,
  OpenAiStructuredOutput,
  Prompt,
  Response,
  ResponseIdTracker,
  Telemetry,
  Tool,
  Toolkit
} from "effect/ai"
import { TestClock } from "effect/testing"
import type { Tracer } from "effect"

const { answer, fail, hang, pause, stream } = ScriptedProvider

/** A chain, without policies around its steps unless given, as the model of effect/ai. */
const chained = (steps: Array.NonEmptyReadonlyArray<Provider.Provider>, policy: Policy.Policy = Policy.none) =>
  LlmResilience.languageModel.pipe(
    Layer.provide(
      Layer.effect(
        LlmResilience.LlmResilience,
        LlmResilience.make({ policy, steps: Array.map(steps, (provider) => ({ provider })) })
      )
    )
  )

const scripted = (id: string, script: ScriptedProvider.Script) =>
  ScriptedProvider.make({ id, model: `${id}-1`, script })

const lookUp = Tool.make("lookUp", {
  description: "Looks up the weather of a city",
  parameters: Schema.Struct({ city: Schema.String, at: Schema.FiniteFromString }),
  success: Schema.Struct({ degrees: Schema.Number })
})
const weather = Toolkit.make(lookUp)

/** The handlers of the toolkit, and the cities that they were asked for. */
const withWeather = Effect.map(Ref.make<ReadonlyArray<string>>([]), (asked) => ({
  asked: Ref.get(asked),
  layer: weather.toLayer({
    lookUp: ({ at, city }) =>
      Effect.as(
        Ref.update(asked, (cities) => [...cities, `${city}@${at}`]),
        { degrees: 21 }
      )
  })
}))

const call = (id: string, city: string): Response.ToolCallPartEncoded => ({
  type: "tool-call",
  id,
  name: "lookUp",
  params: { city, at: "12" }
})

/** Asks until the model wants no more tools. */
const converse = Effect.fnUntraced(function* (prompt: string) {
  const chat = yield* Chat.empty
  let response = yield* chat.generateText({ prompt, toolkit: weather })
  const turns = [response]
  while (response.finishReason === "tool-calls") {
    response = yield* chat.generateText({ prompt: Prompt.empty, toolkit: weather })
    turns.push(response)
  }
  return turns
})

const rolesOf = (request: LlmRequest.LlmRequest | undefined) => request?.prompt.content.map((message) => message.role)

const textOf = (parts: Iterable<Response.AnyPart>) =>
  [...parts].reduce((text, part) => (part.type === "text-delta" ? text + part.delta : text), "")

const Person = Schema.Struct({ name: Schema.String, born: Schema.optionalKey(Schema.DateTimeUtcFromString) })

const idle = (...providers: ReadonlyArray<ScriptedProvider.ScriptedProvider>) =>
  Effect.gen(function* () {
    for (const provider of providers) assert.strictEqual(yield* provider.running, 0)
  })

describe("LlmResilience.languageModel", () => {
  it.effect("answers from a backup, and says so", () =>
    Effect.gen(function* () {
      const primary = yield* scripted("primary", [fail("Authentication", { status: 401, description: "wrong key" })])
      const backup = yield* scripted("backup", [answer("Hello!")])

      const response = yield* LanguageModel.generateText({ prompt: "Hi" }).pipe(
        Effect.provide(chained([primary, backup]))
      )

      assert.strictEqual(response.text, "Hello!")
      const served = LlmResilience.servedOf(response)
      assert.strictEqual(served?.provider, "backup")
      assert.strictEqual(served?.model, "backup-1")
      assert.strictEqual(served?.from, "provider")
      assert.strictEqual(served?.notice?._tag, "BackupService")
      const [attempt] = served?.attempts ?? []
      assert.strictEqual(attempt?.provider, "primary")
      assert.isTrue(attempt?._tag === "Failed" && ProviderError.isProviderError(attempt.error))
      assert.strictEqual(attempt?._tag === "Failed" ? ProviderError.kind(attempt.error) : "", "Authentication")
      assert.strictEqual(response.content.find((part) => part.type === "response-metadata")?.modelId, "backup-1")
      yield* idle(primary, backup)
    })
  )

  it.effect("keeps the model that the provider itself names, and its own metadata", () =>
    Effect.gen(function* () {
      const primary = yield* scripted("primary", [
        answer([
          { type: "response-metadata", id: "42", modelId: "primary-1-2026-11" },
          { type: "text", text: "Hello!" },
          { type: "finish", reason: "stop", usage: LlmResponse.unknownUsage, metadata: { acme: { tier: 2 } } }
        ])
      ])

      const { content } = yield* LanguageModel.generateText({ prompt: "Hi" }).pipe(Effect.provide(chained([primary])))

      assert.deepStrictEqual(
        content.map((part) => part.type),
        ["response-metadata", "text", "finish"]
      )
      assert.strictEqual(content.find((part) => part.type === "response-metadata")?.modelId, "primary-1-2026-11")
      assert.deepStrictEqual(content.find((part) => part.type === "finish")?.metadata, {
        acme: { tier: 2 },
        "llm-resilience": { provider: "primary", model: "primary-1", from: "provider", attempts: [] }
      })
    })
  )

  it.effect("goes through a loop over tools although the provider changes in the middle of it", () =>
    Effect.gen(function* () {
      const { asked, layer } = yield* withWeather
      const primary = yield* scripted("primary", [answer([call("a", "Rome")]), fail("Overloaded")])
      const backup = yield* scripted("backup", [answer([call("b", "Oslo")]), answer("Mild everywhere.")])

      const turns = yield* converse("How warm is it?").pipe(Effect.provide([chained([primary, backup]), layer]))

      assert.deepStrictEqual(
        turns.map((turn) => [LlmResilience.servedOf(turn)?.provider, turn.toolResults.length, turn.text]),
        [
          ["primary", 1, ""],
          ["backup", 1, ""],
          ["backup", 0, "Mild everywhere."]
        ]
      )
      assert.deepStrictEqual(yield* asked, ["Rome@12", "Oslo@12"])
      const [first, second] = yield* backup.calls
      assert.deepStrictEqual(rolesOf(first?.request), ["user", "assistant", "tool"])
      assert.deepStrictEqual(rolesOf(second?.request), ["user", "assistant", "tool", "assistant", "tool"])
      assert.deepStrictEqual(
        first?.request.tools.map((tool) => tool.name),
        ["lookUp"]
      )
      yield* idle(primary, backup)
    })
  )

  it.effect("passes the choice of tools on", () =>
    Effect.gen(function* () {
      const { layer } = yield* withWeather
      const primary = yield* scripted("primary", [answer("No tool needed.")])

      yield* Effect.gen(function* () {
        yield* LanguageModel.generateText({ prompt: "Hi" })
        yield* LanguageModel.generateText({ prompt: "Hi", toolkit: weather })
        yield* LanguageModel.generateText({ prompt: "Hi", toolkit: weather, toolChoice: { tool: "lookUp" } })
      }).pipe(Effect.provide([chained([primary]), layer]))

      assert.deepStrictEqual(
        (yield* primary.calls).map(({ request }) => request.toolChoice),
        ["none", "auto", { tool: "lookUp" }]
      )
    })
  )

  it.effect("generates an object although the first provider does not", () =>
    Effect.gen(function* () {
      const primary = yield* scripted("primary", [fail("SchemaMismatch")])
      const backup = yield* scripted("backup", [answer(`{"name":"Ada","born":"1815-12-10T00:00:00.000Z"}`)])

      const response = yield* LanguageModel.generateObject({
        prompt: "Who?",
        schema: Person,
        objectName: "person"
      }).pipe(Effect.provide(chained([primary, backup])))

      assert.strictEqual(response.value.name, "Ada")
      assert.strictEqual(response.value.born && DateTime.getPartUtc(response.value.born, "year"), 1815)
      assert.strictEqual(LlmResilience.servedOf(response)?.provider, "backup")
      const [asked] = yield* backup.calls
      assert.deepStrictEqual(asked?.request.responseFormat, { type: "json", objectName: "person", schema: Person })
    })
  )

  it.effect("falls over when the first provider writes an object that does not fit its schema", () =>
    Effect.gen(function* () {
      const primary = yield* scripted("primary", [answer("I would rather not say.")])
      const backup = yield* scripted("backup", [answer(`{"name":"Ada"}`)])

      const response = yield* LanguageModel.generateObject({ prompt: "Who?", schema: Person }).pipe(
        Effect.provide(chained([primary, backup], LlmResilience.standard({ retry: "off" })))
      )

      assert.deepStrictEqual(response.value, { name: "Ada" })
      yield* idle(primary, backup)
    })
  )

  it.effect("carries a chat of several turns over to another provider", () =>
    Effect.gen(function* () {
      const primary = yield* scripted("primary", [answer("Nice to meet you, Ada."), fail("QuotaExhausted")])
      const backup = yield* scripted("backup", [answer("You are Ada."), answer("Goodbye!")])

      const texts = yield* Effect.gen(function* () {
        const chat = yield* Chat.fromPrompt([{ role: "system", content: "Be brief." }])
        const first = yield* chat.generateText({ prompt: "I am Ada." })
        const second = yield* chat.generateText({ prompt: "Who am I?" })
        const third = yield* Stream.runCollect(chat.streamText({ prompt: "Bye" }))
        return [first.text, second.text, textOf(third), String((yield* Ref.get(chat.history)).content.length)]
      }).pipe(Effect.provide(chained([primary, backup])))

      assert.deepStrictEqual(texts, ["Nice to meet you, Ada.", "You are Ada.", "Goodbye!", "7"])
      assert.deepStrictEqual(rolesOf((yield* backup.calls)[1]?.request), [
        "system",
        "user",
        "assistant",
        "user",
        "assistant",
        "user"
      ])
      yield* idle(primary, backup)
    })
  )

  it.effect("streams from a backup, and says so before the first content", () =>
    Effect.gen(function* () {
      const primary = yield* scripted("primary", [fail("Overloaded")])
      const backup = yield* scripted("backup", [
        stream([{ type: "response-metadata", id: "42", modelId: "backup-1-mini" }, "Hel", "lo!"])
      ])

      const parts = yield* LanguageModel.streamText({ prompt: "Hi" }).pipe(
        Stream.runCollect,
        Effect.provide(chained([primary, backup]))
      )

      assert.deepStrictEqual(
        parts.map((part) => part.type),
        ["response-metadata", "text-start", "text-delta", "text-delta", "text-end", "finish"]
      )
      assert.strictEqual(textOf(parts), "Hello!")
      const [metadata] = parts
      assert.strictEqual(metadata?.type === "response-metadata" ? metadata.modelId : "", "backup-1-mini")
      assert.strictEqual(LlmResilience.servedOf(parts.slice(0, 1))?.notice?._tag, "BackupService")
      assert.strictEqual(LlmResilience.servedOf(parts.slice(-1))?.provider, "backup")
      yield* idle(primary, backup)
    })
  )

  it.effect("names the model of a stream that does not", () =>
    Effect.gen(function* () {
      const primary = yield* scripted("primary", [stream(["Hello!"])])

      const [first] = yield* LanguageModel.streamText({ prompt: "Hi" }).pipe(
        Stream.runCollect,
        Effect.provide(chained([primary]))
      )

      assert.strictEqual(first?.type === "response-metadata" ? first.modelId : undefined, "primary-1")
    })
  )

  it.effect("runs the tools of a stream once, although the provider changes in the loop", () =>
    Effect.gen(function* () {
      const { asked, layer } = yield* withWeather
      const primary = yield* scripted("primary", [
        stream(["Let me see. ", pause("1 second"), call("a", "Rome")]),
        fail("Overloaded")
      ])
      const backup = yield* scripted("backup", [stream(["It is mild."])])

      const fiber = yield* Effect.gen(function* () {
        const chat = yield* Chat.empty
        const first = yield* Stream.runCollect(chat.streamText({ prompt: "How warm is it?", toolkit: weather }))
        const second = yield* Stream.runCollect(chat.streamText({ prompt: Prompt.empty, toolkit: weather }))
        return { first, second }
      }).pipe(Effect.provide([chained([primary, backup]), layer]), Effect.forkChild)
      yield* TestClock.adjust("1 second")
      const { first, second } = yield* Fiber.join(fiber)

      assert.deepStrictEqual(
        first.flatMap((part) => (part.type === "tool-result" ? [part.result] : [])),
        [{ degrees: 21 }]
      )
      assert.strictEqual(textOf(second), "It is mild.")
      assert.deepStrictEqual(yield* asked, ["Rome@12"])
      assert.deepStrictEqual(rolesOf((yield* backup.calls)[0]?.request), ["user", "assistant", "tool"])
      yield* idle(primary, backup)
    })
  )

  it.effect("ends a stream that breaks after its first content with the error of the provider", () =>
    Effect.gen(function* () {
      const primary = yield* scripted("primary", [stream(["Hel", ScriptedProvider.cut])])
      const seen: Array<string> = []

      const error = yield* LanguageModel.streamText({ prompt: "Hi" }).pipe(
        Stream.runForEach((part) => Effect.sync(() => part.type === "text-delta" && seen.push(part.delta))),
        Effect.flip,
        Effect.provide(chained([primary]))
      )

      assert.deepStrictEqual(seen, ["Hel"])
      const cause = LlmResilience.causeOf(error)
      assert.strictEqual(cause?._tag === "APIError" ? cause.reason : undefined, "StreamCut")
      yield* idle(primary)
    })
  )

  it.effect("recovers a stream that breaks in the middle, and names everybody who wrote it", () =>
    Effect.gen(function* () {
      const primary = yield* scripted("primary", [stream(["One two", ScriptedProvider.cut])])
      const backup = yield* scripted("backup", [ScriptedProvider.tokens("One two three four")])

      const parts = yield* LanguageModel.streamText({ prompt: "Count" }).pipe(
        Stream.runCollect,
        Effect.provide(chained([primary, backup]))
      )

      assert.strictEqual(textOf(parts), "One two three four")
      assert.strictEqual(parts.filter((part) => part.type === "finish").length, 1)
      const served = LlmResilience.servedOf(parts)
      assert.strictEqual(served?.provider, "backup")
      assert.deepStrictEqual(
        served?.contributors?.map(({ provider }) => provider),
        ["primary", "backup"]
      )
      assert.strictEqual(LlmResilience.servedOf(parts.slice(0, 1))?.provider, "primary")
      yield* idle(primary, backup)
    })
  )

  it.effect("tells of a provider that takes over in the middle of a stream", () =>
    Effect.gen(function* () {
      const served = (provider: string): LlmResponse.Served => ({
        provider,
        model: `${provider}-1`,
        from: "provider",
        attempts: []
      })
      const both: LlmResponse.Served = {
        ...served("b"),
        contributors: [
          { provider: "a", model: "a-1" },
          { provider: "b", model: "b-1" }
        ]
      }
      const service = yield* LlmResilience.make({ steps: [{ provider: yield* scripted("a", [answer("")]) }] })
      const recovering: LlmResilience.LlmResilience = {
        ...service,
        stream: () =>
          Stream.make<ReadonlyArray<LlmResponse.LlmStreamPart>>(
            { type: "served", served: served("a") },
            { type: "text-start", id: "0" },
            { type: "text-delta", id: "0", delta: "Hel" },
            { type: "served", served: both },
            { type: "text-delta", id: "0", delta: "lo!" },
            { type: "text-end", id: "0" },
            { type: "finish", reason: "stop", usage: LlmResponse.unknownUsage }
          )
      }

      const parts = yield* LanguageModel.streamText({ prompt: "Hi" }).pipe(
        Stream.runCollect,
        Effect.provide(
          LlmResilience.languageModel.pipe(Layer.provide(Layer.succeed(LlmResilience.LlmResilience, recovering)))
        )
      )

      assert.strictEqual(textOf(parts), "Hello!")
      assert.deepStrictEqual(
        parts.flatMap((part) => (part.type === "response-metadata" ? [part.modelId] : [])),
        ["a-1", "b-1"]
      )
      assert.deepStrictEqual(LlmResilience.servedOf(parts), both)
    })
  )

  it.effect("reads back the whole record of an answer", () =>
    Effect.gen(function* () {
      const served: LlmResponse.Served = {
        provider: "cache",
        model: "large",
        from: "cache",
        attempts: [
          {
            _tag: "Failed",
            provider: "a",
            model: "a-1",
            error: new ProviderError.RateLimited({ provider: "a", retryAfter: Option.some(Duration.seconds(3)) }),
            duration: Duration.millis(12)
          },
          {
            _tag: "Skipped",
            provider: "b",
            model: "b-1",
            reason: { _tag: "CircuitOpen", retryAfter: Duration.seconds(42) }
          }
        ],
        degraded: "shorter",
        match: "similar",
        similarity: 0.97,
        age: Duration.minutes(5),
        notice: { _tag: "Cached", age: Duration.minutes(5), message: "An earlier answer." }
      }
      const service = yield* LlmResilience.make({ steps: [{ provider: yield* scripted("a", [answer("")]) }] })
      const cached: LlmResilience.LlmResilience = {
        ...service,
        generate: () => Effect.succeed(LlmResponse.make({ content: LlmResponse.textContent("Hi"), served }))
      }

      const response = yield* LanguageModel.generateText({ prompt: "Hi" }).pipe(
        Effect.provide(
          LlmResilience.languageModel.pipe(Layer.provide(Layer.succeed(LlmResilience.LlmResilience, cached)))
        )
      )

      assert.deepStrictEqual(LlmResilience.servedOf(response), served)
      assert.doesNotThrow(() => JSON.stringify(response.content.at(-1)?.metadata))
    })
  )

  it.effect("keeps what a provider's code died of out of the record", () =>
    Effect.gen(function* () {
      const primary = yield* scripted("primary", [ScriptedProvider.die({ apiKey: "secret" })])
      const backup = yield* scripted("backup", [answer("Hello!")])

      const response = yield* LanguageModel.generateText({ prompt: "Hi" }).pipe(
        Effect.provide(chained([primary, backup]))
      )

      const [attempt] = LlmResilience.servedOf(response)?.attempts ?? []
      assert.strictEqual(attempt?._tag === "Failed" ? attempt.error._tag : undefined, "APIError")
      assert.notInclude(JSON.stringify(response.content), "secret")
    })
  )

  it("reads nothing from an answer of somebody else", () => {
    const finish = Response.makePart("finish", {
      reason: "stop",
      usage: new Response.Usage(LlmResponse.unknownUsage),
      metadata: { "llm-resilience": { provider: 1 } }
    })

    assert.isUndefined(LlmResilience.servedOf([Response.makePart("text", { text: "Hi" })]))
    assert.isUndefined(LlmResilience.servedOf([finish]))
  })

  it.effect("asks as the caller wants, around one call", () =>
    Effect.gen(function* () {
      const primary = yield* scripted("primary", [answer("Hello!")])
      const wanted: LlmResilience.RequestOptions = {
        settings: { maxOutputTokens: 10, temperature: 0 },
        deadline: "3 seconds",
        scope: "tenant-1",
        mayWait: true,
        mayCache: false
      }

      yield* Effect.gen(function* () {
        yield* LanguageModel.generateText({ prompt: "Hi" })
        yield* LanguageModel.generateText({ prompt: "Hi" }).pipe(
          Effect.provideService(LlmResilience.CurrentRequest, wanted)
        )
        yield* LanguageModel.streamText({ prompt: "Hi" }).pipe(
          Stream.provideService(LlmResilience.CurrentRequest, wanted),
          Stream.runDrain
        )
      }).pipe(Effect.provide(chained([primary])))

      assert.deepStrictEqual(
        (yield* primary.calls).map(({ request: { mayCache, mayWait, scope, settings } }) => ({
          mayCache,
          mayWait,
          scope,
          settings
        })),
        [
          { mayCache: true, mayWait: false, scope: undefined, settings: {} },
          { mayCache: false, mayWait: true, scope: "tenant-1", settings: { maxOutputTokens: 10, temperature: 0 } },
          { mayCache: false, mayWait: true, scope: "tenant-1", settings: { maxOutputTokens: 10, temperature: 0 } }
        ]
      )
    })
  )

  it.effect("keeps the deadline of a call", () =>
    Effect.gen(function* () {
      const primary = yield* scripted("primary", [hang])

      const fiber = yield* LanguageModel.generateText({ prompt: "Hi" }).pipe(
        Effect.provideService(LlmResilience.CurrentRequest, { deadline: "5 seconds" }),
        Effect.flip,
        Effect.provide(chained([primary])),
        Effect.forkChild
      )
      yield* TestClock.adjust("5 seconds")
      const error = yield* Fiber.join(fiber)

      assert.strictEqual(error.reason._tag, "InternalProviderError")
      assert.strictEqual(LlmResilience.causeOf(error)?._tag, "LlmUnavailable")
      yield* idle(primary)
    })
  )

  it.effect("stops asking when the caller leaves", () =>
    Effect.gen(function* () {
      const primary = yield* scripted("primary", [hang, stream(["Hel", hang])])
      const model = chained([primary])

      const whole = yield* Effect.forkChild(LanguageModel.generateText({ prompt: "Hi" }).pipe(Effect.provide(model)))
      yield* primary.awaitCalls(1)
      yield* Fiber.interrupt(whole)
      const parts = yield* LanguageModel.streamText({ prompt: "Hi" }).pipe(
        Stream.takeUntil((part) => part.type === "text-delta"),
        Stream.runCollect,
        Effect.provide(model)
      )

      assert.strictEqual(textOf(parts), "Hel")
      yield* idle(primary)
    })
  )

  it.effect("names all steps where a name is needed before anybody was asked", () =>
    Effect.gen(function* () {
      const steps = [yield* scripted("a", [answer("")]), yield* scripted("b", [answer("")])] as const

      const names = yield* Effect.all([Model.ProviderName, Model.ModelName]).pipe(Effect.provide(chained(steps)))

      assert.deepStrictEqual(names, ["a | b", "a-1 | b-1"])
    })
  )

  it.effect("keeps two chains apart that are built together", () =>
    Effect.gen(function* () {
      class One extends Context.Service<One, LanguageModel.LanguageModel>()("test/One") {}
      class Two extends Context.Service<Two, LanguageModel.LanguageModel>()("test/Two") {}
      const one = yield* scripted("one", [answer("from one")])
      const two = yield* scripted("two", [answer("from two")])

      const texts = yield* Effect.gen(function* () {
        const first = yield* (yield* One).generateText({ prompt: "Hi" })
        const second = yield* (yield* Two).generateText({ prompt: "Hi" })
        return [first.text, second.text]
      }).pipe(
        Effect.provide(
          Layer.mergeAll(
            Layer.effect(One, LanguageModel.LanguageModel).pipe(Layer.provide(chained([one]))),
            Layer.effect(Two, LanguageModel.LanguageModel).pipe(Layer.provide(chained([two])))
          )
        )
      )

      assert.deepStrictEqual(texts, ["from one", "from two"])
    })
  )

  it.effect("writes into the span who answered", () =>
    Effect.gen(function* () {
      const usage = { inputTokens: { total: 3 }, outputTokens: { total: 5 } }
      const primary = yield* scripted("primary", [fail("Overloaded")])
      const backup = yield* scripted("backup", [
        answer(LlmResponse.textContent("Hello!", { usage })),
        answer(LlmResponse.textContent("Hello!", { usage }))
      ])
      const spans: Array<Tracer.Span> = []

      yield* Effect.gen(function* () {
        yield* LanguageModel.generateText({ prompt: "Hi" })
        yield* Stream.runDrain(LanguageModel.streamText({ prompt: "Hi" }))
      }).pipe(
        Effect.provideService(LlmResilience.CurrentRequest, { settings: { temperature: 0.5 } }),
        Effect.provide(chained([primary, backup])),
        Effect.provideService(Telemetry.CurrentSpanTransformer, ({ span }) => {
          spans.push(span)
        })
      )

      assert.deepStrictEqual(
        spans.map((span) => [
          span.name,
          span.attributes.get("gen_ai.provider.name"),
          span.attributes.get("gen_ai.response.model"),
          span.attributes.get("gen_ai.response.finish_reasons"),
          span.attributes.get("gen_ai.request.temperature"),
          span.attributes.get("gen_ai.usage.output_tokens")
        ]),
        [
          ["LanguageModel.generateText", "backup", "backup-1", ["stop"], 0.5, 5],
          ["LanguageModel.streamText", "backup", "backup-1", ["stop"], 0.5, 5]
        ]
      )
    })
  )
})

const request = LlmRequest.make({ prompt: "Hi" })

/** The error with which the model of effect/ai fails when the chain fails so. */
const outOf = (failure: Provider.Failure) =>
  Effect.gen(function* () {
    const service = yield* LlmResilience.make({ steps: [{ provider: yield* scripted("a", [answer("")]) }] })
    const failing: LlmResilience.LlmResilience = { ...service, generate: () => Effect.fail(failure) }
    return yield* LanguageModel.generateText({ prompt: "Hi" }).pipe(
      Effect.flip,
      Effect.provide(
        LlmResilience.languageModel.pipe(Layer.provide(Layer.succeed(LlmResilience.LlmResilience, failing)))
      )
    )
  }).pipe(Effect.scoped)

/** A model of effect/ai, written by hand. */
const handWritten = (functions: Partial<Parameters<typeof LanguageModel.make>[0]>) =>
  Layer.effect(
    LanguageModel.LanguageModel,
    LanguageModel.make({
      generateText: () => Effect.succeed([{ type: "text", text: "Hello!" }]),
      streamText: () => Stream.empty,
      ...functions
    })
  )

const named = { id: "acme", model: "acme-1" }

/** The error with which a provider fails when its model of effect/ai fails so. */
const inOf = (error: AiError.AiError) =>
  Provider.fromLanguageModel(handWritten({ generateText: () => Effect.fail(error) }), named).pipe(
    Effect.flatMap((provider) => Effect.flip(provider.generate(request))),
    Effect.scoped
  )

const aiError = (reason: AiError.AiErrorReason) => AiError.make({ module: "Acme", method: "generateText", reason })

const AsData = Schema.toCodecJson(AiError.AiError)
const asData = (error: AiError.AiError) =>
  Effect.flatMap(Schema.encodeEffect(AsData)(error), (data) =>
    Schema.decodeUnknownEffect(AsData)(JSON.parse(JSON.stringify(data)))
  )

const kindOf = (failure: Provider.Failure) =>
  failure._tag === "LlmUnavailable" ? failure._tag : ProviderError.kind(failure)

const unavailable = (...attempts: ReadonlyArray<LlmUnavailable.LlmUnavailable["attempts"][number]>) =>
  LlmUnavailable.make(attempts)

const failed = (provider: string, kind: ProviderError.Reason) => ({
  _tag: "Failed" as const,
  provider,
  model: `${provider}-1`,
  error: new ProviderError.APIError({ provider, reason: kind, description: "Because." }),
  duration: Duration.zero
})

const limited = (provider: string, seconds: number) => ({
  _tag: "Failed" as const,
  provider,
  model: `${provider}-1`,
  error: new ProviderError.RateLimited({ provider, retryAfter: Option.some(Duration.seconds(seconds)) }),
  duration: Duration.zero
})

const skipped = (
  provider: string,
  reason: Extract<LlmUnavailable.LlmUnavailable["attempts"][number], { readonly _tag: "Skipped" }>["reason"]
) => ({ _tag: "Skipped" as const, provider, model: `${provider}-1`, reason })

describe("errors of LlmResilience.languageModel", () => {
  const reasons: { readonly [K in ProviderError.Kind]: AiError.AiErrorReason["_tag"] } = {
    Timeout: "InternalProviderError",
    RateLimited: "RateLimitError",
    Overloaded: "InternalProviderError",
    ServerError: "InternalProviderError",
    Network: "NetworkError",
    InvalidResponse: "InvalidResponseError",
    StreamCut: "InternalProviderError",
    Authentication: "AuthenticationError",
    PermissionDenied: "AuthenticationError",
    QuotaExhausted: "QuotaExhaustedError",
    ModelNotFound: "InvalidRequestError",
    ContextLengthExceeded: "InvalidRequestError",
    ContentPolicy: "ContentPolicyError",
    InvalidRequest: "InvalidRequestError",
    Refusal: "ContentPolicyError",
    Loop: "InvalidOutputError",
    EmptyOutput: "InvalidOutputError",
    TruncatedOutput: "InvalidOutputError",
    SchemaMismatch: "StructuredOutputError"
  }

  it.effect.prop(
    "have the reason that belongs to the kind, and keep the failure and the kind, there and back",
    { error: ProviderError.ProviderError },
    ({ error }) =>
      Effect.gen(function* () {
        const out = yield* outOf(error)

        assert.strictEqual(out.reason._tag, reasons[ProviderError.kind(error)])
        assert.strictEqual(LlmResilience.causeOf(out), error)
        assert.strictEqual(yield* inOf(out), error)
        const sent = yield* asData(out)
        assert.strictEqual(kindOf(yield* inOf(sent)), ProviderError.kind(error))
      })
  )

  it.effect("tell what can be acted on", () =>
    Effect.gen(function* () {
      const limit = yield* outOf(limited("a", 7).error)
      const quota = yield* outOf(
        new ProviderError.APIError({
          provider: "a",
          reason: "QuotaExhausted",
          description: "Monthly limit",
          retryAfter: Duration.hours(1)
        })
      )
      const forbidden = yield* outOf(failed("a", "PermissionDenied").error)
      const missing = yield* outOf(failed("a", "ModelNotFound").error)

      assert.deepStrictEqual(limit.retryAfter, Duration.seconds(7))
      assert.deepStrictEqual(
        quota.reason._tag === "QuotaExhaustedError" ? quota.reason.resetAt : undefined,
        DateTime.makeUnsafe(3_600_000)
      )
      assert.strictEqual(
        forbidden.reason._tag === "AuthenticationError" ? forbidden.reason.kind : undefined,
        "InsufficientPermissions"
      )
      assert.strictEqual(missing.reason._tag === "InvalidRequestError" ? missing.reason.parameter : undefined, "model")
      assert.strictEqual(
        (yield* outOf(failed("a", "Overloaded").error)).message,
        "LlmResilience.generateText: Internal provider error: a: The provider is overloaded (Because.)"
      )
    })
  )

  const stories: ReadonlyArray<readonly [string, LlmUnavailable.LlmUnavailable, AiError.AiErrorReason["_tag"]]> = [
    ["every step is limited", unavailable(limited("a", 9), limited("b", 4)), "RateLimitError"],
    [
      "every step is limited or resting after a limit",
      unavailable(skipped("a", { _tag: "CoolingDown", retryAfter: Duration.seconds(4) }), limited("b", 9)),
      "RateLimitError"
    ],
    [
      "the only capable step is limited",
      unavailable(limited("a", 4), skipped("b", { _tag: "NotCapable", requires: "tools" })),
      "RateLimitError"
    ],
    [
      "one is limited and one is down",
      unavailable(failed("a", "ServerError"), limited("b", 9)),
      "InternalProviderError"
    ],
    [
      "every circuit is open",
      unavailable(skipped("a", { _tag: "CircuitOpen", retryAfter: Duration.seconds(4) })),
      "InternalProviderError"
    ],
    [
      "every key is wrong, as one has just learnt and another knew before",
      unavailable(skipped("a", { _tag: "Isolated", because: "Authentication" }), failed("b", "PermissionDenied")),
      "AuthenticationError"
    ],
    [
      "an operator took the only step out",
      unavailable(skipped("a", { _tag: "Isolated", because: "incident 42" })),
      "InternalProviderError"
    ],
    ["every quota is used up", unavailable(failed("a", "QuotaExhausted")), "QuotaExhaustedError"],
    ["the prompt is too long for all", unavailable(failed("a", "ContextLengthExceeded")), "InvalidRequestError"],
    [
      "nobody can do what is asked",
      unavailable(skipped("a", { _tag: "NotCapable", requires: "images" })),
      "InvalidRequestError"
    ],
    ["no answer fits the schema", unavailable(failed("a", "SchemaMismatch")), "StructuredOutputError"],
    ["nobody was asked", unavailable(), "InternalProviderError"]
  ]
  for (const [story, failure, reason] of stories) {
    it.effect(`say ${reason} when ${story}`, () =>
      Effect.gen(function* () {
        const error = yield* outOf(failure)

        assert.strictEqual(error.reason._tag, reason)
        assert.strictEqual(LlmResilience.causeOf(error), failure)
        if (error.reason._tag === "RateLimitError") assert.deepStrictEqual(error.retryAfter, Duration.seconds(4))
        assert.strictEqual(yield* inOf(error), failure)
        assert.include(JSON.stringify(yield* asData(error).pipe(Effect.map(({ reason }) => reason))), "Unavailable")
      })
    )
  }

  it.effect("keep only short data when they are sent elsewhere", () =>
    Effect.gen(function* () {
      const sent = yield* asData(yield* outOf(unavailable(limited("a", 4))))

      assert.isUndefined(LlmResilience.causeOf(sent))
      assert.deepStrictEqual("metadata" in sent.reason ? sent.reason.metadata : undefined, {
        "llm-resilience": {
          kind: "Unavailable",
          suggestion: "Try again in 4 seconds.",
          notice: "The service is temporarily unavailable. Please try again in 4 seconds.",
          attempts: ["a failed: RateLimited after 0ms"],
          retryAfterMillis: 4000
        }
      })
    })
  )

  it.effect("name the method, and come from a stream as well", () =>
    Effect.gen(function* () {
      const primary = yield* scripted("primary", [fail("InvalidRequest")])

      const errors = yield* Effect.all([
        Effect.flip(LanguageModel.generateText({ prompt: "Hi" })),
        Effect.flip(LanguageModel.generateObject({ prompt: "Hi", schema: Person })),
        Effect.flip(Stream.runDrain(LanguageModel.streamText({ prompt: "Hi" })))
      ]).pipe(Effect.provide(chained([primary])))

      assert.deepStrictEqual(
        errors.map((error) => [error.module, error.method, error.reason._tag]),
        [
          ["LlmResilience", "generateText", "InvalidRequestError"],
          ["LlmResilience", "generateObject", "InvalidRequestError"],
          ["LlmResilience", "streamText", "InvalidRequestError"]
        ]
      )
    })
  )
})

describe("Provider.fromLanguageModel", () => {
  const everything: Array<Response.PartEncoded> = [
    { type: "response-metadata", id: "42", modelId: "acme-1-mini", timestamp: "2026-11-22T12:00:00.000Z" },
    { type: "reasoning", text: "Hm.", metadata: { acme: { signature: "s" } } },
    { type: "text", text: "Hello!" },
    { type: "file", mediaType: "image/png", data: "AQID" },
    { type: "source", sourceType: "url", id: "1", url: "https://example.com/", title: "Example" },
    { type: "source", sourceType: "document", id: "2", mediaType: "text/plain", title: "Notes", fileName: "notes.txt" },
    { type: "tool-call", id: "a", name: "lookUp", params: { city: "Rome", at: "12" } },
    { type: "tool-call", id: "b", name: "lookUp", params: { town: 7 } },
    { type: "tool-call", id: "c", name: "undeclared", params: [1, null], metadata: { acme: "x" } },
    { type: "tool-call", id: "d", name: "lookUp", params: { city: "Oslo", at: "6" }, providerExecuted: true },
    { type: "tool-result", id: "d", name: "lookUp", isFailure: false, result: { degrees: 3 }, providerExecuted: true },
    {
      type: "finish",
      reason: "tool-calls",
      usage: { inputTokens: { total: 3, cacheRead: 1 }, outputTokens: { total: 5 } },
      response: { status: 200, headers: { "x-request-id": "r" } },
      metadata: { acme: { tier: "s" } }
    }
  ]
  const withTools = LlmRequest.make({ prompt: "Hi", tools: [lookUp], toolChoice: "required" })

  it.effect("keeps every part of an answer as it was sent, also a tool call that nobody can decode", () =>
    Effect.gen(function* () {
      const asked: Array<LanguageModel.ProviderOptions> = []
      const provider = yield* Provider.fromLanguageModel(
        handWritten({
          generateText: (options) => {
            asked.push(options)
            return Effect.succeed([...everything])
          }
        }),
        named
      )

      const response = yield* provider.generate(withTools)

      assert.deepStrictEqual(response.content, everything)
      assert.deepStrictEqual(response.served, { provider: "acme", model: "acme-1", from: "provider", attempts: [] })
      assert.deepStrictEqual(asked[0]?.tools, [lookUp])
      assert.strictEqual(asked[0]?.toolChoice, "required")
      assert.deepStrictEqual(asked[0]?.prompt, withTools.prompt)
    })
  )

  it.effect("keeps every part of a stream as it was sent", () =>
    Effect.gen(function* () {
      const parts: ReadonlyArray<Exclude<LlmResponse.LlmStreamPart, LlmResponse.ServedPart>> = [
        { type: "reasoning-start", id: "0", metadata: { acme: { signature: "s" } } },
        { type: "reasoning-delta", id: "0", delta: "Hm." },
        { type: "reasoning-end", id: "0" },
        { type: "text-start", id: "1" },
        { type: "text-delta", id: "1", delta: "Hello!" },
        { type: "text-end", id: "1" },
        { type: "tool-params-start", id: "a", name: "lookUp" },
        { type: "tool-params-delta", id: "a", delta: "{}" },
        { type: "tool-params-end", id: "a" },
        ...everything.flatMap((part): ReadonlyArray<(typeof parts)[number]> =>
          part.type === "text" || part.type === "reasoning" ? [] : [part]
        )
      ]
      const provider = yield* Provider.fromLanguageModel(
        handWritten({ streamText: () => Stream.fromIterable(parts).pipe(Stream.rechunk(4)) }),
        named
      )

      assert.deepStrictEqual(yield* Stream.runCollect(provider.stream(withTools)), [...parts])
      assert.deepStrictEqual((yield* provider.generate(request)).text, "Hello!")
    })
  )

  it.effect("leaves redacted headers behind", () =>
    Effect.gen(function* () {
      const finish = Response.makePart("finish", {
        reason: "stop",
        usage: new Response.Usage(LlmResponse.unknownUsage),
        response: { status: 200, headers: { date: "today", cookie: Redacted.make("secret") } }
      })
      const model = yield* LanguageModel.LanguageModel.pipe(Effect.provide(handWritten({})))
      const provider = yield* Provider.fromLanguageModel(
        Layer.succeed(LanguageModel.LanguageModel, {
          ...model,
          // A model that is not made by `LanguageModel.make` hands out decoded parts of its own.
          generateText: (() =>
            Effect.succeed(new LanguageModel.GenerateTextResponse([finish]))) as unknown as typeof model.generateText
        }),
        named
      )

      assert.deepStrictEqual((yield* provider.generate(request)).content, [
        {
          type: "finish",
          reason: "stop",
          usage: { inputTokens: {}, outputTokens: {} },
          response: { status: 200, headers: { date: "today" } }
        }
      ])
    })
  )

  it.effect("ends a whole answer without a finish part with one, and takes a stream without one for cut", () =>
    Effect.gen(function* () {
      const provider = yield* Provider.fromLanguageModel(
        handWritten({ streamText: () => Stream.make({ type: "text-delta", id: "0", delta: "Hel" }) }),
        named
      )

      assert.deepStrictEqual(
        (yield* provider.generate(request)).content,
        LlmResponse.textContent("Hello!", { reason: "unknown" })
      )
      const error = yield* Effect.flip(Stream.runDrain(provider.stream(request)))
      assert.strictEqual(kindOf(error), "StreamCut")
    })
  )

  it.effect("fails with an error that the stream sends as a part", () =>
    Effect.gen(function* () {
      const sending = (error: unknown) =>
        Provider.fromLanguageModel(
          handWritten({
            streamText: () =>
              Stream.make<ReadonlyArray<Response.StreamPartEncoded>>(
                { type: "text-start", id: "0" },
                { type: "error", error }
              )
          }),
          named
        ).pipe(Effect.flatMap((provider) => Effect.flip(Stream.runDrain(provider.stream(request)))))

      const plain = yield* sending({ message: "Server on fire" })
      const typed = yield* sending(aiError(new AiError.RateLimitError({ retryAfter: Duration.seconds(2) })))

      assert.strictEqual(kindOf(plain), "ServerError")
      assert.include(plain._tag === "APIError" ? plain.description : "", "Server on fire")
      assert.strictEqual(kindOf(typed), "RateLimited")
    })
  )

  it.effect("does not run a tool, not even one that was approved before", () =>
    Effect.gen(function* () {
      const provider = yield* Provider.fromLanguageModel(handWritten({}), named)
      const approved = Prompt.fromMessages([
        Prompt.makeMessage("assistant", {
          content: [
            Prompt.makePart("tool-call", { id: "a", name: "lookUp", params: {}, providerExecuted: false }),
            Prompt.makePart("tool-approval-request", { approvalId: "1", toolCallId: "a" })
          ]
        }),
        Prompt.makeMessage("tool", {
          content: [Prompt.makePart("tool-approval-response", { approvalId: "1", approved: true })]
        })
      ])

      const error = yield* Effect.flip(provider.generate(LlmRequest.make({ prompt: approved, tools: [lookUp] })))

      assert.strictEqual(kindOf(error), "InvalidRequest")
    })
  )

  it.effect("writes an object by its own schema, whatever the model was made to write", () =>
    Effect.gen(function* () {
      const Trip = Schema.Struct({
        leg: Schema.Tuple([Schema.String, Schema.String]),
        at: Schema.optionalKey(Schema.DateTimeUtcFromString)
      })
      const responseFormat = { type: "json", objectName: "trip", schema: Trip } as const
      const asked: Array<LanguageModel.ProviderOptions> = []
      const provider = yield* Provider.fromLanguageModel(
        handWritten({
          // OpenAI's strict mode knows no tuples and no optional fields.
          codecTransformer: OpenAiStructuredOutput.toCodecOpenAI,
          generateText: (options) => {
            asked.push(options)
            return Effect.succeed([
              { type: "text", text: `{"leg":{"0":"Rome",` },
              { type: "text", text: `"1":"Oslo"},"at":null}` },
              { type: "finish", reason: "stop", usage: LlmResponse.unknownUsage }
            ])
          }
        }),
        named
      )
      const whole = LlmRequest.make({ prompt: "Where?", responseFormat })

      const { content } = yield* provider.generate(whole)
      const parts = yield* Stream.runCollect(provider.stream(whole))

      assert.deepStrictEqual(content, LlmResponse.textContent(`{"leg":["Rome","Oslo"]}`))
      assert.deepStrictEqual(LlmResponse.collect(parts), content)
      assert.deepStrictEqual(asked[0]?.responseFormat, responseFormat)
    })
  )

  it.effect("fails with a SchemaMismatch when the object does not fit its schema", () =>
    Effect.gen(function* () {
      const provider = yield* Provider.fromLanguageModel(handWritten({}), named)

      const error = yield* Effect.flip(
        provider.generate(
          LlmRequest.make({ prompt: "Who?", responseFormat: { type: "json", objectName: "p", schema: Person } })
        )
      )

      assert.strictEqual(kindOf(error), "SchemaMismatch")
    })
  )

  class Config extends Context.Service<Config, { readonly max_tokens: number | undefined }>()("test/acme/Config") {}

  it.effect("brings the settings of a request to the model in the words of its package", () =>
    Effect.gen(function* () {
      const seen: Array<number | undefined> = []
      const read = Effect.map(Effect.serviceOption(Config), (config) =>
        Option.getOrUndefined(Option.map(config, ({ max_tokens }) => max_tokens))
      )
      const finish = { type: "finish", reason: "stop", usage: LlmResponse.unknownUsage } as const
      const provider = yield* Provider.fromLanguageModel(
        handWritten({
          generateText: () => Effect.map(read, (max) => (seen.push(max), [finish])),
          streamText: () => Stream.fromEffect(Effect.map(read, (max) => (seen.push(max), finish)))
        }),
        { ...named, settings: ({ settings }) => Context.make(Config, { max_tokens: settings.maxOutputTokens }) }
      )

      yield* provider.generate(LlmRequest.make({ prompt: "Hi", settings: { maxOutputTokens: 10 } }))
      yield* Stream.runDrain(provider.stream(LlmRequest.make({ prompt: "Hi", settings: { maxOutputTokens: 20 } })))
      yield* provider.generate(request)

      assert.deepStrictEqual(seen, [10, 20, undefined])
    })
  )

  it.effect("does not send the id of another provider's answer", () =>
    Effect.gen(function* () {
      const asked: Array<string | undefined> = []
      const remembering = handWritten({
        generateText: (options) => {
          asked.push(options.previousResponseId)
          return Effect.succeed([{ type: "response-metadata", id: "acme-42" }, ...LlmResponse.textContent("Hello!")])
        }
      })
      const primary = yield* scripted("primary", [
        answer([{ type: "response-metadata", id: "primary-7" }, ...LlmResponse.textContent("Hello!")]),
        fail("Overloaded")
      ])
      const backup = yield* Provider.fromLanguageModel(remembering, named)

      yield* Effect.gen(function* () {
        const chat = yield* Chat.empty
        yield* chat.generateText({ prompt: "Hi" })
        yield* chat.generateText({ prompt: "And again" })
      }).pipe(
        Effect.provide(chained([primary, backup])),
        Effect.provideServiceEffect(ResponseIdTracker.ResponseIdTracker, ResponseIdTracker.make)
      )

      assert.deepStrictEqual(asked, [undefined])
    })
  )

  it.effect("takes its names from the layer of a Model", () =>
    Effect.gen(function* () {
      const layer = Model.make("acme", "acme-large", handWritten({}))

      const own = yield* Provider.fromLanguageModel(layer)
      const other = yield* Provider.fromLanguageModel(layer, { id: "second", capabilities: { tools: false } })
      // @ts-expect-error any other layer has no names, so both have to be given
      Provider.layerLanguageModel(handWritten({}), { id: "third" })

      assert.deepStrictEqual([own.id, own.model], ["acme", "acme-large"])
      assert.deepStrictEqual([other.id, other.model, other.capabilities], ["second", "acme-large", { tools: false }])
    })
  )

  it.effect("lives as long as its layer, needs what the model needs, and fails as it fails", () =>
    Effect.gen(function* () {
      const closed = yield* Ref.make(false)
      const model = Layer.effect(
        LanguageModel.LanguageModel,
        Effect.gen(function* () {
          const { max_tokens } = yield* Config
          if (max_tokens === undefined) return yield* Effect.fail("no limit" as const)
          yield* Effect.addFinalizer(() => Ref.set(closed, true))
          return yield* LanguageModel.LanguageModel.pipe(Effect.provide(handWritten({})))
        })
      )
      const layer: Layer.Layer<Provider.Provider, "no limit", Config> = Provider.layerLanguageModel(model, named)

      const { text } = yield* Effect.flatMap(Provider.Provider, (provider) => provider.generate(request)).pipe(
        Effect.provide(layer),
        Effect.provideService(Config, { max_tokens: 1 })
      )
      const failure = yield* Provider.Provider.pipe(
        Effect.provide(layer),
        Effect.provideService(Config, { max_tokens: undefined }),
        Effect.flip
      )

      assert.strictEqual(text, "Hello!")
      assert.strictEqual(failure, "no limit")
      assert.isTrue(yield* Ref.get(closed))
    })
  )

  it.effect("interrupts the model when the caller leaves, whole and streamed", () =>
    Effect.gen(function* () {
      const running = yield* Ref.make(0)
      const never = Effect.acquireUseRelease(
        Ref.update(running, (count) => count + 1),
        () => Effect.never,
        () => Ref.update(running, (count) => count - 1)
      )
      const provider = yield* Provider.fromLanguageModel(
        handWritten({ generateText: () => never, streamText: () => Stream.fromEffect(never) }),
        named
      )

      const fibers = yield* Effect.all([
        Effect.forkChild(provider.generate(request), { startImmediately: true }),
        Effect.forkChild(Stream.runDrain(provider.stream(request)), { startImmediately: true })
      ])
      yield* Effect.yieldNow
      assert.strictEqual(yield* Ref.get(running), 2)
      yield* Fiber.interruptAll(fibers)

      assert.strictEqual(yield* Ref.get(running), 0)
    })
  )

  it.effect("turns a defect of the model into an error", () =>
    Effect.gen(function* () {
      const provider = yield* Provider.fromLanguageModel(
        handWritten({ generateText: () => Effect.die(new Error("bug")) }),
        named
      )

      assert.strictEqual(kindOf(yield* Effect.flip(provider.generate(request))), "ServerError")
    })
  )
})

describe("errors of Provider.fromLanguageModel", () => {
  const http = (status: number, body?: string, headers: { readonly [name: string]: string } = {}) => ({
    http: { response: { status, headers }, ...(body === undefined ? undefined : { body }) }
  })
  const table: ReadonlyArray<readonly [AiError.AiErrorReason, ProviderError.Kind]> = [
    [new AiError.RateLimitError({}), "RateLimited"],
    [new AiError.QuotaExhaustedError({}), "QuotaExhausted"],
    [new AiError.AuthenticationError({ kind: "InvalidKey" }), "Authentication"],
    [new AiError.AuthenticationError({ kind: "InsufficientPermissions" }), "PermissionDenied"],
    [new AiError.ContentPolicyError({ description: "flagged" }), "ContentPolicy"],
    [new AiError.InvalidRequestError({ description: "bad field" }), "InvalidRequest"],
    [new AiError.InvalidRequestError({ parameter: "model" }), "ModelNotFound"],
    [new AiError.InvalidRequestError({ description: "no such thing", ...http(404) }), "ModelNotFound"],
    [
      new AiError.InvalidRequestError(http(400, `{"error":{"code":"context_length_exceeded"}}`)),
      "ContextLengthExceeded"
    ],
    [new AiError.InvalidRequestError({ description: "prompt is too long: 200001 tokens" }), "ContextLengthExceeded"],
    [new AiError.InvalidResponseError({ description: "not JSON" }), "InvalidResponse"],
    [new AiError.InternalProviderError({ description: "Server error", ...http(500) }), "ServerError"],
    [new AiError.InternalProviderError({ description: "Server error", ...http(503) }), "Overloaded"],
    [new AiError.InternalProviderError({ description: "Server error", ...http(504) }), "Timeout"],
    [new AiError.InternalProviderError({ description: "Overloaded" }), "Overloaded"],
    [new AiError.NetworkError({ reason: "TransportError", method: "POST", url: "https://a/" }), "Network"],
    [new AiError.NetworkError({ reason: "InvalidUrlError", method: "POST", url: "a" }), "Network"],
    [new AiError.NetworkError({ reason: "EncodeError", method: "POST", url: "https://a/" }), "InvalidRequest"],
    [new AiError.InvalidOutputError({ description: "?" }), "SchemaMismatch"],
    [new AiError.StructuredOutputError({ description: "?", responseText: "" }), "SchemaMismatch"],
    [new AiError.UnsupportedSchemaError({ description: "recursive" }), "SchemaMismatch"],
    [new AiError.ToolNotFoundError({ toolName: "a", availableTools: [] }), "SchemaMismatch"],
    [new AiError.ToolParameterValidationError({ toolName: "a", description: "?" }), "SchemaMismatch"],
    [new AiError.InvalidToolResultError({ toolName: "a", description: "?" }), "InvalidRequest"],
    [new AiError.ToolResultEncodingError({ toolName: "a", toolResult: 1, description: "?" }), "InvalidRequest"],
    [new AiError.ToolConfigurationError({ toolName: "a", description: "?" }), "InvalidRequest"],
    [new AiError.ToolkitRequiredError({ pendingApprovals: ["a"] }), "InvalidRequest"],
    [new AiError.InvalidUserInputError({ description: "?" }), "InvalidRequest"],
    [new AiError.UnknownError({ description: "?" }), "ServerError"],
    [new AiError.UnknownError(http(402)), "QuotaExhausted"],
    [new AiError.UnknownError(http(413)), "ContextLengthExceeded"],
    [new AiError.UnknownError(http(404)), "ModelNotFound"],
    [new AiError.UnknownError(http(418)), "InvalidRequest"]
  ]

  it.effect("have the kind that belongs to the reason", () =>
    Effect.gen(function* () {
      for (const [reason, kind] of table) {
        const error = yield* inOf(aiError(reason))
        assert.strictEqual(kindOf(error), kind, reason.message)
        assert.strictEqual(error._tag === "LlmUnavailable" ? "" : error.provider, "acme")
      }
    })
  )

  it.effect.prop("have the same kind again after the way out and in", { reason: AiError.AiErrorReason }, ({ reason }) =>
    Effect.gen(function* () {
      const once = yield* inOf(aiError(reason))
      const twice = yield* inOf(yield* asData(yield* outOf(once)))

      assert.strictEqual(kindOf(twice), kindOf(once))
    })
  )

  it.effect("keep when to come back, the id for the support desk and the advice not to try again", () =>
    Effect.gen(function* () {
      const limit = yield* inOf(
        aiError(
          new AiError.RateLimitError({
            retryAfter: Duration.seconds(7),
            metadata: { openai: { requestId: "req_1", errorCode: null } }
          })
        )
      )
      const quota = yield* inOf(aiError(new AiError.QuotaExhaustedError({ resetAt: DateTime.makeUnsafe(60_000) })))
      const busy = yield* inOf(
        aiError(
          new AiError.InternalProviderError({ description: "busy", ...http(503, undefined, { "retry-after": "9" }) })
        )
      )
      const schema = yield* inOf(aiError(new AiError.UnsupportedSchemaError({ description: "recursive" })))

      assert.strictEqual(limit._tag === "RateLimited" ? limit.requestId : undefined, "req_1")
      assert.deepStrictEqual(
        [limit, quota, busy].map((error) =>
          error._tag === "LlmUnavailable" ? undefined : ProviderError.retryAfter(error)
        ),
        [Duration.seconds(7), Duration.minutes(1), Duration.seconds(9)]
      )
      assert.strictEqual(busy._tag === "APIError" ? busy.status : undefined, 503)
      assert.strictEqual(schema._tag === "APIError" ? schema.shouldRetry : undefined, false)
    })
  )

  it.effect("hold no key and no more text than an error needs", () =>
    Effect.gen(function* () {
      const error = yield* inOf(
        aiError(
          new AiError.AuthenticationError({
            kind: "InvalidKey",
            description: `Incorrect API key provided: sk-proj-${"a".repeat(40)}\n${"x".repeat(5000)}`
          })
        )
      )

      const description = error._tag === "APIError" ? error.description : ""
      assert.isTrue(description.startsWith("Incorrect API key provided: <redacted> x"))
      assert.isAtMost(description.length, 300)
    })
  )
})

describe("a model of effect/ai over a provider over a model of effect/ai", () => {
  // The inner chain fails over within itself; the outer one sees one model.
  const nested = Effect.fnUntraced(function* (...steps: Array.NonEmptyArray<Provider.Provider>) {
    return chained([yield* Provider.fromLanguageModel(chained(steps), { id: "inner" })])
  })

  it.effect("runs a loop over tools, each tool once, with a failover in the middle", () =>
    Effect.gen(function* () {
      const { asked, layer } = yield* withWeather
      const primary = yield* scripted("primary", [answer([call("a", "Rome")]), fail("Overloaded")])
      const backup = yield* scripted("backup", [answer("Mild.")])
      const model = yield* nested(primary, backup)

      const turns = yield* converse("How warm is it?").pipe(Effect.provide([model, layer]))

      assert.deepStrictEqual(
        turns.map((turn) => turn.text),
        ["", "Mild."]
      )
      assert.deepStrictEqual(yield* asked, ["Rome@12"])
      assert.deepStrictEqual(turns[0]?.toolResults[0]?.result, { degrees: 21 })
      yield* idle(primary, backup)
    })
  )

  it.effect("generates an object with a failover inside", () =>
    Effect.gen(function* () {
      const primary = yield* scripted("primary", [answer("I would rather not say.")])
      const backup = yield* scripted("backup", [answer(`{"name":"Ada"}`)])
      const inner = [
        yield* Provider.fromLanguageModel(chained([primary]), { id: "first" }),
        yield* Provider.fromLanguageModel(chained([backup]), { id: "second" })
      ] as const

      const response = yield* LanguageModel.generateObject({ prompt: "Who?", schema: Person }).pipe(
        Effect.provide(chained(inner))
      )

      assert.deepStrictEqual(response.value, { name: "Ada" })
      assert.strictEqual(LlmResilience.servedOf(response)?.provider, "second")
      yield* idle(primary, backup)
    })
  )

  it.effect("streams with a failover inside", () =>
    Effect.gen(function* () {
      const primary = yield* scripted("primary", [fail("Overloaded")])
      const backup = yield* scripted("backup", [ScriptedProvider.tokens("One two three")])

      const parts = yield* LanguageModel.streamText({ prompt: "Count" }).pipe(
        Stream.runCollect,
        Effect.provide(yield* nested(primary, backup))
      )

      assert.strictEqual(textOf(parts), "One two three")
      assert.strictEqual(parts.filter((part) => part.type === "finish").length, 1)
      yield* idle(primary, backup)
    })
  )

  it.effect("holds a chat of several turns", () =>
    Effect.gen(function* () {
      const primary = yield* scripted("primary", [answer("Nice to meet you."), fail("Overloaded")])
      const backup = yield* scripted("backup", [answer("You are Ada.")])

      const text = yield* Effect.gen(function* () {
        const chat = yield* Chat.empty
        yield* chat.generateText({ prompt: "I am Ada." })
        const { text } = yield* chat.generateText({ prompt: "Who am I?" })
        return text
      }).pipe(Effect.provide(yield* nested(primary, backup)))

      assert.strictEqual(text, "You are Ada.")
      assert.deepStrictEqual(rolesOf((yield* backup.calls)[0]?.request), ["user", "assistant", "user"])
      yield* idle(primary, backup)
    })
  )

  it.effect("tells the story of the inner chain when nobody could answer", () =>
    Effect.gen(function* () {
      const primary = yield* scripted("primary", [fail("Overloaded")])

      const error = yield* LanguageModel.generateText({ prompt: "Hi" }).pipe(
        Effect.flip,
        Effect.provide(yield* nested(primary))
      )

      const cause = LlmResilience.causeOf(error)
      assert.deepStrictEqual(cause?._tag === "LlmUnavailable" ? cause.attempts.map(({ provider }) => provider) : [], [
        "primary"
      ])
    })
  )
})
