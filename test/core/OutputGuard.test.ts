import { assert, describe, it } from "@effect/vitest"
import {
  Decision,
  Fallback,
  LlmRequest,
  LlmResilience,
  LlmResponse,
  Notice,
  OutputGuard,
  type Policy,
  Provider,
  ResilienceEvent
} from "@llm-resilience/core"
import { ScriptedProvider } from "@llm-resilience/testing"
import { Context, Effect, Exit, Fiber, Option, Schema, Stream } from "effect"
import { LanguageModel } from "effect/ai"
import { TestClock } from "effect/testing"

const request = LlmRequest.make({ prompt: "Hi" })

const Person = Schema.Struct({ name: Schema.String, age: Schema.Int })
const asJson = (schema: Schema.Top = Person): LlmRequest.ResponseFormat => ({
  type: "json",
  objectName: "person",
  schema
})
const personRequest = LlmRequest.make({ prompt: "Who?", responseFormat: asJson() })
const ada = `{"name":"Ada","age":36}`

const reasonOf = (exit: Exit.Exit<unknown, Provider.Failure>) => {
  const error = Option.getOrUndefined(Exit.findErrorOption(exit))
  return error?._tag === "APIError" ? error.reason : error?._tag
}

const isDelta = (part: LlmResponse.LlmStreamPart) => part.type === "text-delta"

const textOf = (parts: ReadonlyArray<LlmResponse.LlmStreamPart>) =>
  parts.map((part) => (part.type === "text-delta" ? part.delta : "")).join("")

/** What a reader saw of a stream, and how it ended. */
const readStream = (self: Pick<Provider.Provider, "stream">, asked = request) =>
  Effect.gen(function* () {
    const parts: Array<LlmResponse.LlmStreamPart> = []
    const exit = yield* Effect.exit(
      Stream.runForEach(self.stream(asked), (part) => Effect.sync(() => void parts.push(part)))
    )
    const served = parts.flatMap((part) => (part.type === "served" ? [part.served] : [])).at(-1)
    return { parts, text: textOf(parts), reason: reasonOf(exit), served, ended: parts.at(-1)?.type === "finish" }
  })

const guarded = Effect.fnUntraced(function* (script: ScriptedProvider.Script, options?: OutputGuard.Options) {
  const provider = yield* ScriptedProvider.make({ id: "p", script })
  return { provider, self: yield* OutputGuard.policy(options)(provider) }
})

/** How a step ends, whole and streamed. */
const both = Effect.fnUntraced(function* (step: ScriptedProvider.Step, options?: OutputGuard.Options, asked = request) {
  const { self } = yield* guarded([step], options)
  const whole = reasonOf(yield* Effect.exit(self.generate(asked)))
  const streamed = (yield* readStream(self, asked)).reason
  return [whole, streamed]
})

/** A stream in which each text comes by itself. */
const bitByBit = (texts: ReadonlyArray<string>, finish?: LlmResponse.LlmStreamPart) =>
  ScriptedProvider.stream([
    ...texts.flatMap((text) => [text, ScriptedProvider.pause("1 millis")]),
    ...(finish === undefined ? [] : [finish])
  ])

const running = <A, E, R>(effect: Effect.Effect<A, E, R>) =>
  Effect.gen(function* () {
    const fiber = yield* Effect.forkChild(effect)
    yield* TestClock.adjust("10 minutes")
    return yield* Fiber.join(fiber)
  })

const finishOf = (reason: "stop" | "length" | "content-filter"): LlmResponse.LlmStreamPart => ({
  type: "finish",
  reason,
  usage: LlmResponse.unknownUsage
})

const call = { type: "tool-call", id: "1", name: "look", params: {} } as const

describe("OutputGuard: empty", () => {
  it.effect("fails an answer without anything in it, whole and streamed", () =>
    Effect.gen(function* () {
      assert.deepStrictEqual(yield* both(ScriptedProvider.answer("")), ["EmptyOutput", "EmptyOutput"])
    })
  )

  it.effect("does not take reasoning for an answer", () =>
    Effect.gen(function* () {
      const thinking = ScriptedProvider.answer([{ type: "reasoning", text: "Hmm." }])

      assert.deepStrictEqual(yield* both(thinking), ["EmptyOutput", "EmptyOutput"])
    })
  )

  it.effect("lets text and tool calls pass", () =>
    Effect.gen(function* () {
      assert.deepStrictEqual(yield* both(ScriptedProvider.answer("ok")), [undefined, undefined])
      assert.deepStrictEqual(yield* both(ScriptedProvider.answer([call])), [undefined, undefined])
    })
  )

  it.effect("calls what a content filter withheld by its name, so that it is not routed around", () =>
    Effect.gen(function* () {
      const filtered = ScriptedProvider.answer("", { finish: "content-filter" })

      assert.deepStrictEqual(yield* both(filtered), ["ContentPolicy", "ContentPolicy"])
    })
  )

  it.effect("does not ask again when the tokens were used up before the answer began", () =>
    Effect.gen(function* () {
      const { self } = yield* guarded([
        ScriptedProvider.answer([{ type: "reasoning", text: "Hmm." }], { finish: "length" })
      ])
      const error = yield* Effect.flip(self.generate(request))

      assert.strictEqual(error._tag === "APIError" ? error.reason : "", "EmptyOutput")
      assert.strictEqual(error._tag === "APIError" ? error.shouldRetry : undefined, false)
    })
  )

  it.effect("can be switched off", () =>
    Effect.gen(function* () {
      assert.deepStrictEqual(yield* both(ScriptedProvider.answer(""), { empty: "off" }), [undefined, undefined])
    })
  )
})

describe("OutputGuard: truncated", () => {
  const cut = ScriptedProvider.answer("It goes", { finish: "length" })

  it.effect("lets a shorter answer pass and says so, whole and streamed", () =>
    Effect.gen(function* () {
      const { self } = yield* guarded([cut])
      const whole = (yield* self.generate(request)).served
      const streamed = yield* readStream(self)

      for (const served of [whole, streamed.served]) {
        assert.strictEqual(served?.degraded, "shorter")
        assert.strictEqual(served?.notice?._tag, "Shortened")
        assert.strictEqual(served?.provider, "p")
      }
      assert.isTrue(streamed.ended)
    })
  )

  it.effect("says so in a stream that is on its way, right before the end", () =>
    Effect.gen(function* () {
      const { self } = yield* guarded([bitByBit(["It ", "goes"], finishOf("length"))])
      const { parts } = yield* running(readStream(self))

      assert.deepStrictEqual(
        parts.slice(-2).map((part) => part.type),
        ["served", "finish"]
      )
    })
  )

  it.effect("finds nothing wrong with a bound of the caller's own", () =>
    Effect.gen(function* () {
      const bounded = LlmRequest.make({ prompt: "Hi", settings: { maxOutputTokens: 2 } })
      const { self } = yield* guarded([cut], { truncated: "fail" })

      assert.isUndefined((yield* self.generate(bounded)).served.degraded)
    })
  )

  it.effect("fails when asked to", () =>
    Effect.gen(function* () {
      assert.deepStrictEqual(yield* both(cut, { truncated: "fail" }), ["TruncatedOutput", "TruncatedOutput"])
      assert.deepStrictEqual(yield* both(cut, { truncated: "off" }), [undefined, undefined])
    })
  )

  it.effect("translates its notice", () =>
    Effect.gen(function* () {
      const { self } = yield* guarded([cut])

      assert.strictEqual((yield* self.generate(request)).served.notice?.message, "kurz")
    }).pipe(Effect.provideService(Notice.Translate, () => "kurz"))
  )

  it.effect("fails half a JSON even where its length was bounded, without asking for a repair", () =>
    Effect.gen(function* () {
      const asked = LlmRequest.make({
        prompt: "Who?",
        responseFormat: asJson(),
        settings: { maxOutputTokens: 5 }
      })
      const { provider, self } = yield* guarded([ScriptedProvider.answer(`{"name":"A`, { finish: "length" })])

      assert.strictEqual(reasonOf(yield* Effect.exit(self.generate(asked))), "TruncatedOutput")
      assert.strictEqual(yield* provider.count, 1)
    })
  )
})

describe("OutputGuard: loop", () => {
  const again = "And again. "

  it.effect("fails a whole answer that loops", () =>
    Effect.gen(function* () {
      const step = ScriptedProvider.answer(again.repeat(1000))

      assert.deepStrictEqual(yield* both(step), ["Loop", "Loop"])
      assert.deepStrictEqual(yield* both(step, { loop: "off" }), [undefined, undefined])
    })
  )

  it.effect("stops a stream that loops, and the upstream request with it", () =>
    Effect.gen(function* () {
      const { provider, self } = yield* guarded([
        bitByBit(["Once upon a time. ", ...Array.from({ length: 5000 }, () => again)])
      ])
      const seen = yield* running(readStream(self))

      assert.strictEqual(seen.reason, "Loop")
      assert.isFalse(seen.ended)
      assert.isBelow(seen.text.length, 3000)
      assert.strictEqual(yield* provider.running, 0)
      assert.isBelow((yield* provider.calls)[0]?.endedAt ?? Infinity, 300)
    })
  )

  it.effect("stops a model that loops while it thinks", () =>
    Effect.gen(function* () {
      const thoughts = Array.from({ length: 1000 }, () => ({
        type: "reasoning-delta" as const,
        id: "r",
        delta: "Wait, let me check. "
      }))
      const { self } = yield* guarded([ScriptedProvider.stream([...thoughts, "42"])])

      assert.strictEqual((yield* readStream(self)).reason, "Loop")
    })
  )

  it.effect("finds a loop in the reasoning of a whole answer", () =>
    Effect.gen(function* () {
      const step = ScriptedProvider.answer([
        { type: "reasoning", text: "Wait, let me check. ".repeat(200) },
        { type: "text", text: "42" }
      ])

      assert.deepStrictEqual(yield* both(step), ["Loop", "Loop"])
    })
  )

  it.effect("marks a loop that may pass, and lets it pass to its end", () =>
    Effect.gen(function* () {
      const texts = Array.from({ length: 1000 }, () => again)
      const { self } = yield* guarded([bitByBit(texts)], { loop: "notice" })
      const seen = yield* running(readStream(self))

      assert.strictEqual(seen.text, again.repeat(1000))
      assert.strictEqual(seen.served?.degraded, "shorter")
    })
  )

  it.effect("needs less of it when the answer was cut off in the middle", () =>
    Effect.gen(function* () {
      const short = again.repeat(110)

      assert.deepStrictEqual(yield* both(ScriptedProvider.answer(short)), [undefined, undefined])
      assert.deepStrictEqual(yield* both(ScriptedProvider.answer(short, { finish: "length" })), ["Loop", "Loop"])
    })
  )

  it.effect("takes limits of your own", () =>
    Effect.gen(function* () {
      const loopLimits = { prose: { length: 100, repeats: 3 } }

      assert.deepStrictEqual(yield* both(ScriptedProvider.answer(again.repeat(100)), { loopLimits }), ["Loop", "Loop"])
      assert.throws(
        () => OutputGuard.policy({ loopLimits: { prose: { length: 1, repeats: 3 } } }),
        /prose.length must be an integer from 64/
      )
    })
  )
})

describe("OutputGuard: refusal", () => {
  const refusal = ["I'm sorry", ", but I", " can't help", " with that."]

  it.effect("lets refusals pass unless asked not to", () =>
    Effect.gen(function* () {
      const step = ScriptedProvider.answer(refusal.join(""))

      assert.deepStrictEqual(yield* both(step), [undefined, undefined])
      assert.deepStrictEqual(yield* both(step, { refusal: "fail" }), ["Refusal", "Refusal"])
    })
  )

  it.effect("holds a refusal back, so that it fails before its first word", () =>
    Effect.gen(function* () {
      const { self } = yield* guarded([bitByBit(refusal)], { refusal: "fail" })
      const seen = yield* running(readStream(self))

      assert.deepStrictEqual([seen.text, seen.reason], ["", "Refusal"])
      assert.isFalse(seen.parts.some((part) => part.type === "finish"))
    })
  )

  it.effect("holds an answer back only while it could become a refusal", () =>
    Effect.gen(function* () {
      const { self } = yield* guarded([bitByBit(["I", " am", " glad", " you ask."])], { refusal: "fail" })
      const chunks: Array<string> = []
      const fiber = yield* Effect.forkChild(
        Stream.runForEachArray(self.stream(request), (parts) => Effect.sync(() => void chunks.push(textOf(parts))))
      )
      yield* TestClock.adjust("10 seconds")
      yield* Fiber.join(fiber)

      assert.deepStrictEqual(
        chunks.filter((chunk) => chunk !== ""),
        ["I am glad", " you ask."]
      )
    })
  )

  it.effect("passes everything on in order when a refusal becomes an answer", () =>
    Effect.gen(function* () {
      const text = `${refusal.join("")}${" But here is what I can do.".repeat(20)}`
      const { self } = yield* guarded([bitByBit(text.match(/.{1,9}/g) ?? [])], { refusal: "fail" })
      const seen = yield* running(readStream(self))

      assert.deepStrictEqual([seen.text, seen.reason, seen.ended], [text, undefined, true])
      assert.strictEqual(seen.parts.filter((part) => part.type === "text-start").length, 1)
    })
  )

  it.effect("lets go as soon as the answer is too long for a refusal, or does something", () =>
    Effect.gen(function* () {
      const long = ` ${"But here is what I can do. ".repeat(20)}`
      for (const [goesOn, expected] of [
        [long, `${refusal.join("")}${long}`],
        [call, "I can't"]
      ] as const) {
        const texts = goesOn === call ? ["I can't"] : refusal
        const { self } = yield* guarded([ScriptedProvider.stream([...texts, goesOn, ScriptedProvider.hang])], {
          refusal: "fail"
        })
        let text = ""
        const fiber = yield* Effect.forkChild(
          Stream.runForEach(self.stream(request), (part) =>
            Effect.sync(() => {
              if (part.type === "text-delta") text += part.delta
            })
          )
        )
        yield* TestClock.adjust("1 second")
        yield* Fiber.interrupt(fiber)

        assert.strictEqual(text, expected)
      }
    })
  )

  it.effect("is no refusal when a tool is called with it", () =>
    Effect.gen(function* () {
      const step = ScriptedProvider.answer([{ type: "text", text: "I can't help with that." }, call])

      assert.deepStrictEqual(yield* both(step, { refusal: "fail" }), [undefined, undefined])
    })
  )

  it.effect("does not hold the reasoning before it back", () =>
    Effect.gen(function* () {
      const { self } = yield* guarded(
        [
          ScriptedProvider.stream([
            { type: "reasoning-delta", id: "r", delta: "Hm." },
            ScriptedProvider.pause("1 second"),
            ...refusal
          ])
        ],
        { refusal: "fail" }
      )
      const seen = yield* running(readStream(self))

      assert.isTrue(seen.parts.some((part) => part.type === "reasoning-delta"))
      assert.deepStrictEqual([seen.text, seen.reason], ["", "Refusal"])
    })
  )

  it.effect("marks a refusal that may pass, without holding it back", () =>
    Effect.gen(function* () {
      const { self } = yield* guarded([bitByBit(refusal)], { refusal: "notice" })
      const seen = yield* running(readStream(self))

      assert.strictEqual(seen.parts.filter(isDelta).length, refusal.length)
      assert.strictEqual(seen.served?.notice?._tag, "Shortened")
    })
  )
})

describe("OutputGuard: schema", () => {
  const wrong = `{"name":"Ada","age":"very old"}`

  it.effect("shows the model what is wrong and asks once more", () =>
    Effect.gen(function* () {
      const usage = (total: number) => ({ inputTokens: { total }, outputTokens: { total: 1 } })
      const { provider, self } = yield* guarded([
        ScriptedProvider.answer(wrong, { usage: usage(10) }),
        ScriptedProvider.answer(ada, { usage: usage(30) })
      ])
      const response = yield* self.generate(personRequest)

      assert.strictEqual(response.text, ada)
      assert.deepStrictEqual(response.usage, { inputTokens: { total: 40 }, outputTokens: { total: 2 } })
      const [first, second] = yield* provider.calls
      assert.strictEqual(first?.request.prompt.content.length, 1)
      const [, answer, correction] = second?.request.prompt.content ?? []
      assert.deepStrictEqual([answer?.role, correction?.role], ["assistant", "user"])
      assert.include(JSON.stringify(answer?.content), "very old")
      assert.include(JSON.stringify(correction?.content), "Expected number at")
      assert.notInclude(JSON.stringify(correction?.content), "very old")
    })
  )

  it.effect("goes up when the second answer is no better, and says not to ask a third time", () =>
    Effect.gen(function* () {
      const { provider, self } = yield* guarded([ScriptedProvider.answer(wrong)])
      const error = yield* Effect.flip(self.generate(personRequest))

      assert.strictEqual(error._tag === "APIError" ? error.reason : "", "SchemaMismatch")
      assert.strictEqual(error._tag === "APIError" ? error.shouldRetry : undefined, false)
      assert.include(error._tag === "APIError" ? error.description : "", `at ["age"]`)
      assert.strictEqual(yield* provider.count, 2)
    })
  )

  it.effect("fails at once when repairs are off, and may be retried", () =>
    Effect.gen(function* () {
      const { provider, self } = yield* guarded([ScriptedProvider.answer(wrong)], { schema: "fail" })
      const error = yield* Effect.flip(self.generate(personRequest))

      assert.isUndefined(error._tag === "APIError" ? error.shouldRetry : false)
      assert.strictEqual(yield* provider.count, 1)
    })
  )

  it.effect("tells its listeners that it asks again", () =>
    Effect.gen(function* () {
      const hub = ResilienceEvent.makeHub()
      const events = yield* Effect.forkChild(Stream.runHead(hub.stream), { startImmediately: true })
      yield* Effect.yieldNow
      const { self } = yield* Effect.provideService(
        guarded([ScriptedProvider.answer(wrong), ScriptedProvider.answer(ada)]),
        ResilienceEvent.CurrentHub,
        hub
      )
      yield* self.generate(personRequest)

      const event = Option.getOrUndefined(yield* Fiber.join(events))
      assert.strictEqual(event?._tag, "Retried")
    })
  )

  it.effect("does not show the model what would not fit, or what it was made to go on with", () =>
    Effect.gen(function* () {
      const prompt = [
        { role: "user", content: "Who?" },
        { role: "assistant", content: "{" }
      ] as const
      const prefilled = LlmRequest.make({ prompt, responseFormat: asJson() })
      const long = `{"name":"${"a".repeat(40_000)}"}`
      for (const [text, asked] of [
        [long, personRequest],
        [`"name": 1}`, prefilled]
      ] as const) {
        const { provider, self } = yield* guarded([ScriptedProvider.answer(text)], { loop: "off" })

        assert.strictEqual(reasonOf(yield* Effect.exit(self.generate(asked))), "SchemaMismatch")
        assert.strictEqual(yield* provider.count, 1)
      }
    })
  )

  it.effect("reports the error of the repair when the provider fails in it", () =>
    Effect.gen(function* () {
      const { self } = yield* guarded([ScriptedProvider.answer(wrong), ScriptedProvider.fail("Overloaded")])

      assert.strictEqual(reasonOf(yield* Effect.exit(self.generate(personRequest))), "Overloaded")
    })
  )

  it.effect("does not let a failure of its own making hide the first one", () =>
    Effect.gen(function* () {
      for (const kind of ["InvalidRequest", "ContextLengthExceeded", "ContentPolicy"] as const) {
        const { self } = yield* guarded([ScriptedProvider.answer(wrong), ScriptedProvider.fail(kind)])

        assert.strictEqual(reasonOf(yield* Effect.exit(self.generate(personRequest))), "SchemaMismatch")
      }
    })
  )

  it.effect("takes a Markdown fence off without asking anybody", () =>
    Effect.gen(function* () {
      const { provider, self } = yield* guarded([
        ScriptedProvider.answer([
          { type: "reasoning", text: "Easy." },
          { type: "text", text: `\n\`\`\`json\n${ada}\n\`\`\`\n` }
        ])
      ])
      const response = yield* self.generate(personRequest)

      assert.strictEqual(response.text, ada)
      assert.deepStrictEqual(
        response.content.map((part) => part.type),
        ["reasoning", "text", "finish"]
      )
      assert.strictEqual(yield* provider.count, 1)
    })
  )

  it.effect("does not take prose around the JSON for an answer", () =>
    Effect.gen(function* () {
      assert.deepStrictEqual(yield* both(ScriptedProvider.answer(`Here you are: ${ada}`), undefined, personRequest), [
        "SchemaMismatch",
        "SchemaMismatch"
      ])
    })
  )

  it.effect("does not judge an answer that calls tools", () =>
    Effect.gen(function* () {
      const step = ScriptedProvider.answer([{ type: "text", text: "Let me look." }, call])

      assert.deepStrictEqual(yield* both(step, undefined, personRequest), [undefined, undefined])
    })
  )

  it.effect("ends a stream that was passed on with the error in the place of its end", () =>
    Effect.gen(function* () {
      const { provider, self } = yield* guarded([bitByBit([`{"name":`, `"Ada"}`])])
      const seen = yield* running(readStream(self, personRequest))

      assert.deepStrictEqual([seen.text, seen.reason, seen.ended], [`{"name":"Ada"}`, "SchemaMismatch", false])
      assert.strictEqual(yield* provider.count, 1)
    })
  )

  it.effect("lets a stream pass that is too long to be kept", () =>
    Effect.gen(function* () {
      const { self } = yield* guarded([bitByBit([`{"name":"Ada"`, ` , "age": "`, `old" }`])], { maxText: 10 })

      assert.isUndefined((yield* running(readStream(self, personRequest))).reason)
    })
  )

  it.effect("judges what a stream goes on with together with it", () =>
    Effect.gen(function* () {
      const prefilled = LlmRequest.make({
        prompt: [
          { role: "user", content: "Who?" },
          { role: "assistant", content: `{"name":"Ada",` }
        ],
        responseFormat: asJson()
      })

      assert.deepStrictEqual(yield* both(ScriptedProvider.answer(`"age":36}`), { schema: "fail" }, prefilled), [
        undefined,
        undefined
      ])
    })
  )

  it.effect("uses what the schema needs from the caller's context", () =>
    Effect.gen(function* () {
      const Known = Context.Service<{ readonly names: ReadonlyArray<string> }>("test/Known")
      const Name = Schema.String.pipe(
        Schema.middlewareDecoding((decoding) => Effect.andThen(Effect.service(Known), decoding))
      )
      const asked = LlmRequest.make({ prompt: "Who?", responseFormat: asJson(Schema.Struct({ name: Name })) })
      const { self } = yield* guarded([ScriptedProvider.answer(`{"name":"Ada"}`)])

      const response = yield* Effect.provideService(self.generate(asked), Known, { names: [] })
      assert.strictEqual(response.text, `{"name":"Ada"}`)
    })
  )

  it.effect("lets the answer pass when the schema itself dies", () =>
    Effect.gen(function* () {
      const Dying = Schema.String.pipe(Schema.middlewareDecoding(() => Effect.die("bug")))
      const asked = LlmRequest.make({ prompt: "Who?", responseFormat: asJson(Dying) })
      const { self } = yield* guarded([ScriptedProvider.answer(`"Ada"`)])

      assert.strictEqual((yield* self.generate(asked)).text, `"Ada"`)
    })
  )

  it.effect("may let an answer pass with a notice, or not look at all", () =>
    Effect.gen(function* () {
      const noticing = yield* guarded([ScriptedProvider.answer(wrong)], { schema: "notice" })
      const blind = yield* guarded([ScriptedProvider.answer(wrong)], { schema: "off" })

      assert.strictEqual((yield* noticing.self.generate(personRequest)).served.degraded, "shorter")
      assert.isUndefined((yield* blind.self.generate(personRequest)).served.degraded)
    })
  )
})

describe("OutputGuard: judge", () => {
  const good = ScriptedProvider.answer("A good answer")
  const rejecting: OutputGuard.Options = {
    judge: () => Effect.succeed(OutputGuard.rejected("Refusal", "I do not like it"))
  }

  it.effect("sees the answer and the request, and decides", () =>
    Effect.gen(function* () {
      const seen: Array<OutputGuard.Answer> = []
      const judge: OutputGuard.Options["judge"] = (answer, asked) =>
        Effect.sync(() => {
          seen.push(answer)
          return asked === request ? OutputGuard.noticed : OutputGuard.accepted
        })
      const { self } = yield* guarded([good], { judge })

      assert.strictEqual((yield* self.generate(request)).served.degraded, "shorter")
      assert.strictEqual((yield* readStream(self)).served?.degraded, "shorter")
      const answer = { text: "A good answer", isWhole: true, toolCalls: 0, finishReason: "stop" }
      assert.deepStrictEqual(seen, [answer, answer])
      assert.deepStrictEqual(yield* both(good, rejecting), ["Refusal", "Refusal"])
    })
  )

  it.effect("is not asked about answers that fail anyway", () =>
    Effect.gen(function* () {
      const judge = () => Effect.die("not to be asked")
      const { self } = yield* guarded([ScriptedProvider.answer("")], { judge })

      assert.strictEqual(reasonOf(yield* Effect.exit(self.generate(request))), "EmptyOutput")
    })
  )

  it.effect("lets the answer pass when the judge fails, dies, gives up or is slow", () =>
    Effect.gen(function* () {
      const judges: ReadonlyArray<OutputGuard.Options["judge"]> = [
        () => Effect.fail("down"),
        () => Effect.die("bug"),
        () => Effect.interrupt,
        () => {
          throw new Error("bug")
        },
        () => Effect.never,
        () => Effect.uninterruptible(Effect.sleep("1 hour")).pipe(Effect.as(OutputGuard.accepted))
      ]
      for (const judge of judges) {
        const { self } = yield* guarded([good], { judge })
        const fiber = yield* Effect.forkChild(self.generate(request))
        yield* TestClock.adjust("2 seconds")

        assert.strictEqual((yield* Fiber.join(fiber)).text, "A good answer")
      }
    })
  )

  it.effect("may be told to reject in that case", () =>
    Effect.gen(function* () {
      const judgeUndecided = OutputGuard.rejected("SchemaMismatch", "Nobody could say whether it is any good")

      assert.deepStrictEqual(yield* both(good, { judge: () => Effect.fail("down"), judgeUndecided }), [
        "SchemaMismatch",
        "SchemaMismatch"
      ])
    })
  )

  it.effect("has no more time than the deadline leaves", () =>
    Effect.gen(function* () {
      const { self } = yield* guarded([good], { judge: () => Effect.never, judgeWithin: "1 minute" })
      const asked = LlmRequest.start(LlmRequest.make({ prompt: "Hi", deadline: "3 seconds" }), 0)
      const fiber = yield* Effect.forkChild(self.generate(asked), { startImmediately: true })
      yield* TestClock.adjust("3 seconds")

      assert.isDefined(fiber.pollUnsafe())
    })
  )

  it.effect("does not take back what another check found", () =>
    Effect.gen(function* () {
      const { self } = yield* guarded([ScriptedProvider.answer("It goes", { finish: "length" })], {
        judge: () => Effect.succeed(OutputGuard.accepted)
      })

      assert.strictEqual((yield* self.generate(request)).served.degraded, "shorter")
    })
  )

  it.effect("is abandoned when the caller leaves", () =>
    Effect.gen(function* () {
      let interrupted = 0
      const judge = () => Effect.onInterrupt(Effect.never, () => Effect.sync(() => interrupted++))
      const { self } = yield* guarded([good], { judge })
      const fiber = yield* Effect.forkChild(self.generate(request), { startImmediately: true })
      yield* Effect.yieldNow
      yield* Fiber.interrupt(fiber)

      assert.strictEqual(interrupted, 1)
    })
  )

  it.effect("does not keep the reader of a stream waiting for what is there", () =>
    Effect.gen(function* () {
      const said = (delta: string): LlmResponse.LlmStreamPart => ({ type: "text-delta", id: "0", delta })
      const provider = Provider.make({
        id: "p",
        model: "m",
        stream: () => Stream.concat(Stream.make(said("A ")), Stream.fromIterable([said("good"), finishOf("stop")]))
      })
      const self = yield* OutputGuard.policy({
        judge: () => Effect.as(Effect.sleep("1 second"), OutputGuard.rejected("Refusal", "no"))
      })(provider)
      let text = ""
      const fiber = yield* Effect.forkChild(
        Effect.exit(
          Stream.runForEach(self.stream(request), (part) =>
            Effect.sync(() => {
              if (part.type === "text-delta") text += part.delta
            })
          )
        )
      )
      yield* TestClock.adjust("500 millis")
      assert.strictEqual(text, "A good")
      assert.isUndefined(fiber.pollUnsafe())

      yield* TestClock.adjust("1 second")
      assert.strictEqual(reasonOf(yield* Fiber.join(fiber)), "Refusal")
    })
  )

  it.effect("keeps the words of a rejected stream back when none was passed on", () =>
    Effect.gen(function* () {
      const whole = Provider.make({
        id: "p",
        model: "m",
        generate: () => Effect.succeed({ content: LlmResponse.textContent("A good answer") })
      })
      const seen = yield* readStream(yield* OutputGuard.policy(rejecting)(whole))

      assert.deepStrictEqual([seen.text, seen.reason], ["", "Refusal"])
    })
  )

  it.effect("takes services from where the guard is built", () =>
    Effect.gen(function* () {
      const Taste = Context.Service<{ readonly verdict: OutputGuard.Verdict }>("test/Taste")
      const guard: Policy.Policy<{ readonly verdict: OutputGuard.Verdict }> = OutputGuard.policy({
        judge: () => Effect.map(Effect.service(Taste), (taste) => taste.verdict)
      })
      const provider = yield* ScriptedProvider.make({ script: [good] })
      const self = yield* Effect.provideService(guard(provider), Taste, { verdict: OutputGuard.noticed })

      assert.strictEqual((yield* self.generate(request)).served.degraded, "shorter")
    })
  )

  it.effect("has its failures reported", () =>
    Effect.gen(function* () {
      const hub = ResilienceEvent.makeHub()
      const events = yield* Effect.forkChild(Stream.runHead(hub.stream), { startImmediately: true })
      yield* Effect.yieldNow
      const { self } = yield* Effect.provideService(
        guarded([good], { judge: () => Effect.die("bug") }),
        ResilienceEvent.CurrentHub,
        hub
      )
      yield* self.generate(request)

      const event = Option.getOrUndefined(yield* Fiber.join(events))
      assert.deepStrictEqual(event, { _tag: "DefectCaught", provider: "p", cause: "bug" })
    })
  )
})

describe("OutputGuard within a chain", () => {
  const chain = Effect.fnUntraced(function* (
    scripts: { readonly first: ScriptedProvider.Script; readonly second?: ScriptedProvider.Script },
    outputGuard?: OutputGuard.Options
  ) {
    const first = yield* ScriptedProvider.make({ id: "first", script: scripts.first })
    const second = yield* ScriptedProvider.make({
      id: "second",
      script: scripts.second ?? [ScriptedProvider.answer(ada)]
    })
    const service = yield* LlmResilience.make({
      steps: [{ provider: first }, { provider: second }],
      policy: LlmResilience.standard({ outputGuard })
    })
    return { first, second, service }
  })

  it.effect("repairs JSON at the first step, and falls over when that does not help", () =>
    Effect.gen(function* () {
      const { first, second, service } = yield* chain({ first: [ScriptedProvider.answer("not JSON")] })
      const response = yield* running(service.generate(personRequest))

      assert.strictEqual(response.text, ada)
      assert.strictEqual(response.served.provider, "second")
      assert.strictEqual(yield* first.count, 2)
      assert.strictEqual((yield* second.calls)[0]?.request.prompt.content.length, 1)
    })
  )

  it.effect("does not repair what the request has no call left for", () =>
    Effect.gen(function* () {
      const { first, second, service } = yield* chain({ first: [ScriptedProvider.answer("not JSON")] })
      const response = yield* running(service.generate({ ...personRequest, attempts: 2 }))

      assert.strictEqual(response.served.provider, "second")
      assert.deepStrictEqual([yield* first.count, yield* second.count], [1, 1])
    })
  )

  it.effect("repairs what generateObject asked for", () =>
    Effect.gen(function* () {
      const { first, second, service } = yield* chain({
        first: [ScriptedProvider.answer(`{"name":"Ada"}`), ScriptedProvider.answer(ada)]
      })
      const response = yield* LanguageModel.generateObject({ prompt: "Who?", schema: Person }).pipe(
        Effect.provide(LlmResilience.languageModel),
        Effect.provideService(LlmResilience.LlmResilience, service)
      )

      assert.deepStrictEqual(response.value, { name: "Ada", age: 36 })
      assert.deepStrictEqual([yield* first.count, yield* second.count], [2, 0])
    })
  )

  it.effect("starts a stream that loops again only while nothing was passed on", () =>
    Effect.gen(function* () {
      const again = "And again. "
      const atOnce = yield* chain({ first: [ScriptedProvider.answer(again.repeat(1000))] })
      const seen = yield* running(readStream(atOnce.service))
      assert.deepStrictEqual([seen.text, seen.served?.provider], [ada, "second"])

      const later = yield* chain({ first: [bitByBit(Array.from({ length: 1000 }, () => again))] })
      const broken = yield* running(readStream(later.service))
      assert.strictEqual(broken.reason, "Loop")
      assert.isFalse(broken.ended)
      assert.strictEqual(yield* later.second.count, 0)
      assert.strictEqual(yield* later.first.running, 0)
    })
  )

  it.effect("does not route a refusal around, unless the table says so", () =>
    Effect.gen(function* () {
      const refusal = { first: [ScriptedProvider.answer("I'm sorry, but I can't help with that.")] }
      const strict = yield* chain(refusal, { refusal: "fail" })
      assert.strictEqual(reasonOf(yield* Effect.exit(running(strict.service.generate(request)))), "Refusal")
      assert.strictEqual(yield* strict.second.count, 0)

      const lenient = yield* Effect.provideService(
        chain(refusal, { refusal: "fail" }),
        Decision.CurrentTable,
        Decision.override({ Refusal: { fallOver: "yes" } })
      )
      assert.strictEqual((yield* running(lenient.service.generate(request))).served.provider, "second")
      assert.strictEqual((yield* running(readStream(lenient.service))).served?.provider, "second")
    })
  )

  it.effect("falls over when a judge rejects", () =>
    Effect.gen(function* () {
      const { first, service } = yield* chain(
        { first: [ScriptedProvider.answer("Bonjour")], second: [ScriptedProvider.answer("Hello")] },
        {
          judge: ({ text }) =>
            Effect.succeed(
              text === "Hello" ? OutputGuard.accepted : OutputGuard.rejected("TruncatedOutput", "Not English")
            )
        }
      )

      assert.strictEqual((yield* running(service.generate(request))).served.provider, "second")
      assert.strictEqual(yield* first.count, 1)
    })
  )

  it.effect("keeps the record of the steps before when an answer turns out shorter at its end", () =>
    Effect.gen(function* () {
      const short = bitByBit(["It ", "goes"], finishOf("length"))
      const { service } = yield* chain({ first: [ScriptedProvider.fail("Authentication")], second: [short] })
      const streamed = yield* running(readStream(service))
      const whole = yield* running(service.generate(request))

      for (const served of [streamed.served, whole.served]) {
        assert.strictEqual(served?.provider, "second")
        assert.strictEqual(served?.degraded, "shorter")
        assert.strictEqual(served?.notice?._tag, "Shortened")
        assert.deepStrictEqual(
          served?.attempts.map((attempt) => attempt.provider),
          ["first"]
        )
      }
    })
  )

  it.effect("adds to the record of a chain that is inside", () =>
    Effect.gen(function* () {
      const down = yield* ScriptedProvider.make({ id: "down", script: [ScriptedProvider.fail("Authentication")] })
      const up = yield* ScriptedProvider.make({
        id: "up",
        script: [bitByBit(["It ", "goes"], finishOf("length"))]
      })
      const self = yield* OutputGuard.policy()(yield* Fallback.make([down, up]))
      const { served } = yield* running(readStream(self))

      assert.deepStrictEqual([served?.provider, served?.attempts.length, served?.degraded], ["up", 1, "shorter"])
    })
  )

  it.effect("goes on with another provider when a stream is cut at its length and that is a failure", () =>
    Effect.gen(function* () {
      const { service } = yield* chain(
        {
          first: [bitByBit(["It ", "goes"], finishOf("length"))],
          second: [bitByBit(["It ", "goes", " on."])]
        },
        { truncated: "fail" }
      )
      const seen = yield* running(readStream(service))

      assert.deepStrictEqual([seen.text, seen.reason, seen.ended], ["It goes on.", undefined, true])
      assert.isUndefined(seen.served?.degraded)
    })
  )

  it.effect("is not a failure of the provider", () =>
    Effect.gen(function* () {
      const { service } = yield* chain({ first: [ScriptedProvider.answer("")] })
      yield* Effect.forEach(Array.from({ length: 6 }), () => running(service.generate(request)))

      const [status] = yield* service.status
      assert.strictEqual(status?.circuit?._tag, "Closed")
    })
  )

  it.effect("can be switched off", () =>
    Effect.gen(function* () {
      const provider = yield* ScriptedProvider.make({ script: [ScriptedProvider.answer("")] })
      const service = yield* LlmResilience.make({
        steps: [{ provider }],
        policy: LlmResilience.standard({ outputGuard: "off" })
      })

      assert.strictEqual((yield* service.generate(request)).text, "")
    })
  )
})
