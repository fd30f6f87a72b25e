import { assert, describe, it } from "@effect/vitest"
import {
  CircuitBreaker,
  Decision,
  Degradation,
  Fallback,
  LlmRequest,
  type LlmResponse,
  OutputGuard,
  type Provider,
  ResilienceEvent,
  Timeouts
} from "@llm-resilience/core"
import { ScriptedProvider } from "@llm-resilience/testing"
import { Effect, Exit, Fiber, Random, Schema, Stream } from "effect"
import { TestClock } from "effect/testing"
import * as Seam from "../../packages/core/src/internal/seam.ts"

const request = LlmRequest.make({ prompt: "Tell me about the fox" })
const answer = "The quick brown fox jumps over the lazy dog.  It is quick, and it is brown.\n\nThat is all about foxes."

type Step = ScriptedProvider.Step

const provider = (id: string, script: ScriptedProvider.Script, prefill?: boolean) =>
  ScriptedProvider.make({ id, model: `${id}-model`, script, capabilities: prefill === undefined ? {} : { prefill } })

/** Streams a text in pieces of the given size and breaks it at a character. */
const pieces = (text: string, size: number, breakAt?: number): Step => {
  const shown = text.slice(0, breakAt)
  const parts = Array.from({ length: Math.ceil(shown.length / size) }, (_, index) =>
    shown.slice(index * size, (index + 1) * size)
  )
  return ScriptedProvider.stream(breakAt === undefined ? parts : [...parts, ScriptedProvider.cut])
}

/** The assistant message that a request ends in, if it does. */
const prefillOf = (asked: LlmRequest.LlmRequest): string | undefined => {
  const message = asked.prompt.content.at(-1)
  if (message?.role !== "assistant") return undefined
  return message.content.map((part) => (part.type === "text" ? part.text : "")).join("")
}

/** A model that goes on where the prefill stops. */
const obedient =
  (text: string, size = 7): ScriptedProvider.Script =>
  (_, asked) =>
    pieces(text.slice((prefillOf(asked) ?? "").length), size)

const read = Effect.fnUntraced(function* (stream: Stream.Stream<LlmResponse.LlmStreamPart, Provider.Failure>) {
  const parts: Array<LlmResponse.LlmStreamPart> = []
  const fiber = yield* Effect.forkChild(
    Effect.exit(Stream.runForEach(stream, (part) => Effect.sync(() => parts.push(part))))
  )
  yield* TestClock.adjust("1 hour")
  const exit = yield* Fiber.join(fiber)
  const error = Exit.findErrorOption(exit)
  return {
    parts,
    text: parts.map((part) => (part.type === "text-delta" ? part.delta : "")).join(""),
    served: parts.flatMap((part) => (part.type === "served" ? [part.served] : [])),
    finish: parts.find((part) => part.type === "finish"),
    reason:
      error._tag === "Some" ? (error.value._tag === "APIError" ? error.value.reason : error.value._tag) : undefined
  }
})

/** One start and one end, and every block that is spoken in is open. */
const assertWellFormed = (parts: ReadonlyArray<LlmResponse.LlmStreamPart>): void => {
  const open = new Set<string>()
  const started = new Set<string>()
  for (const part of parts) {
    if (part.type === "text-start" || part.type === "reasoning-start") {
      assert.isFalse(started.has(part.id), `block ${part.id} starts once`)
      started.add(part.id)
      open.add(part.id)
    }
    if (part.type === "text-delta" || part.type === "reasoning-delta")
      assert.isTrue(open.has(part.id), `block ${part.id} is open`)
    if (part.type === "text-end" || part.type === "reasoning-end")
      assert.isTrue(open.delete(part.id), `block ${part.id} ends once`)
  }
  assert.strictEqual(open.size, 0, "every block is closed")
  assert.strictEqual(parts.filter((part) => part.type === "finish").length, 1)
  assert.strictEqual(parts.at(-1)?.type, "finish")
  assert.isAtMost(parts.filter((part) => part.type === "response-metadata").length, 1)
}

describe("Recovery of a stream that breaks after its first content", () => {
  it.effect("continues from a prefill, wherever the break is: the text has no repeated and no missing character", () =>
    Effect.gen(function* () {
      for (let at = 1; at < answer.length; at++) {
        const a = yield* provider("a", [pieces(answer, 5, at)])
        const b = yield* provider("b", obedient(answer), true)
        const { parts, reason, text } = yield* read((yield* Fallback.make([a, b])).stream(request))

        assert.isUndefined(reason, `break at ${at}`)
        assert.strictEqual(text, answer, `break at ${at}`)
        assertWellFormed(parts)
        assert.strictEqual(yield* a.running, 0)
      }
    })
  )

  it.effect("leaves white space out of the prefill, and the reader sees it once", () =>
    Effect.gen(function* () {
      const at = answer.indexOf("  It") + 1
      const a = yield* provider("a", [pieces(answer, 5, at)])
      const b = yield* provider("b", obedient(answer), true)
      const { text } = yield* read((yield* Fallback.make([a, b])).stream(request))
      const [asked] = yield* b.calls

      assert.strictEqual(asked === undefined ? undefined : prefillOf(asked.request), answer.slice(0, at).trimEnd())
      assert.strictEqual(text, answer)
    })
  )

  it.effect("names both providers, tells the user, keeps the story, and counts the usage of both parts", () =>
    Effect.gen(function* () {
      const a = yield* provider("a", [pieces(answer, 5, 40)])
      const b = yield* provider("b", obedient(answer), true)
      const { finish, served } = yield* read((yield* Fallback.make([a, b])).stream(request))

      assert.deepStrictEqual(
        served.map(({ provider }) => provider),
        ["a", "b"]
      )
      assert.deepStrictEqual(served[1]?.contributors, [
        { provider: "a", model: "a-model" },
        { provider: "b", model: "b-model" }
      ])
      assert.strictEqual(served[1]?.notice?._tag, "BackupService")
      assert.deepStrictEqual(
        served[1]?.attempts.map((attempt) => [attempt.provider, attempt._tag]),
        [["a", "Failed"]]
      )
      // This provider does not tell its usage, so the sum is unknown; what was estimated is marked.
      assert.isUndefined(finish?.type === "finish" ? finish.usage.outputTokens.total : undefined)
      assert.deepStrictEqual(finish?.type === "finish" ? finish.metadata?.["llm-resilience"] : undefined, {
        estimatedOutputTokens: 10
      })
    })
  )

  it.effect("restarts where no prefill is accepted, and holds back what the reader has seen", () =>
    Effect.gen(function* () {
      for (let at = 1; at < answer.length; at += 3) {
        const a = yield* provider("a", [pieces(answer, 4, at)])
        const b = yield* provider("b", [pieces(answer, 9)])
        const { parts, reason, text } = yield* read((yield* Fallback.make([a, b])).stream(request))

        assert.isUndefined(reason)
        assert.strictEqual(text, answer)
        assertWellFormed(parts)
      }
    })
  )

  it.effect("ends with the error of the break when the restarted answer says something else", () =>
    Effect.gen(function* () {
      const a = yield* provider("a", [pieces(answer, 5, 40), pieces("Foxes are nice.", 5)])
      const b = yield* provider("b", [pieces("A fox is an animal.", 5)])
      const { reason, text } = yield* read((yield* Fallback.make([a, b])).stream(request))

      assert.strictEqual(reason, "StreamCut")
      assert.strictEqual(text, answer.slice(0, 40))
      assert.strictEqual(yield* b.running, 0)
    })
  )

  it.effect("falls through to a restart when the prefill is refused, and does not let the refusal mask the break", () =>
    Effect.gen(function* () {
      const refusing =
        (text: string): ScriptedProvider.Script =>
        (_, asked) =>
          prefillOf(asked) === undefined ? pieces(text, 6) : ScriptedProvider.fail("InvalidRequest")
      const a = () => provider("a", [pieces(answer, 5, 40), ScriptedProvider.fail("Overloaded")])
      const same = yield* provider("b", refusing(answer), true)
      const other = yield* provider("b", refusing("Something else"), true)

      assert.strictEqual((yield* read((yield* Fallback.make([yield* a(), same])).stream(request))).text, answer)
      assert.strictEqual((yield* read((yield* Fallback.make([yield* a(), other])).stream(request))).reason, "StreamCut")
    })
  )

  it.effect("notices a model that ignores the prefill and starts over", () =>
    Effect.gen(function* () {
      for (let at = 25; at < answer.length; at += 7) {
        const a = yield* provider("a", [pieces(answer, 5, at)])
        const b = yield* provider("b", [pieces(answer, 6)], true)
        const { reason, text } = yield* read((yield* Fallback.make([a, b])).stream(request))

        assert.isUndefined(reason)
        assert.strictEqual(text, answer)
      }
    })
  )

  it.effect("recovers again when the recovery breaks", () =>
    Effect.gen(function* () {
      const a = yield* provider("a", [pieces(answer, 5, 30)])
      const b = yield* provider("b", [pieces(answer.slice(30), 5, 20)], true)
      const c = yield* provider("c", obedient(answer), true)
      const { finish, parts, served, text } = yield* read((yield* Fallback.make([a, b, c])).stream(request))

      assert.strictEqual(text, answer)
      assertWellFormed(parts)
      assert.deepStrictEqual(
        served.at(-1)?.contributors?.map(({ provider }) => provider),
        ["a", "b", "c"]
      )
      const usage = finish?.type === "finish" ? finish.metadata?.["llm-resilience"] : undefined
      assert.deepStrictEqual(usage, { estimatedOutputTokens: Math.ceil(30 / 4) + Math.ceil(20 / 4) })
    })
  )

  it.effect("gives up after four rounds on a provider that always breaks", () =>
    Effect.gen(function* () {
      const a = yield* provider("a", (_, asked) => pieces(answer.slice((prefillOf(asked) ?? "").length), 5, 25), true)
      const { reason, text } = yield* read((yield* Fallback.make([a])).stream(request))

      assert.strictEqual(reason, "StreamCut")
      assert.isTrue(answer.startsWith(text))
      assert.isAtMost(yield* a.count, 10)
    })
  )

  it.effect("recovers from a stall and from an error frame as well", () =>
    Effect.gen(function* () {
      for (const broken of [
        ScriptedProvider.hang,
        ScriptedProvider.fail("ServerError"),
        ScriptedProvider.fail("InvalidResponse")
      ]) {
        const a = yield* Timeouts.policy({ idle: "5 seconds" })(
          yield* provider("a", [ScriptedProvider.stream([answer.slice(0, 30), broken])])
        )
        const b = yield* provider("b", obedient(answer), true)
        const { text } = yield* read((yield* Fallback.make([a, b])).stream(request))

        assert.strictEqual(text, answer)
      }
    })
  )

  it.effect("does not recover what the table says is nobody's fault, and nothing after the deadline", () =>
    Effect.gen(function* () {
      const refused = yield* provider("a", [
        ScriptedProvider.stream(["The quick", ScriptedProvider.fail("ContentPolicy")])
      ])
      const b = yield* provider("b", obedient(answer), true)
      assert.strictEqual((yield* read((yield* Fallback.make([refused, b])).stream(request))).reason, "ContentPolicy")

      const slow = yield* provider("a", [ScriptedProvider.stream([answer.slice(0, 30), ScriptedProvider.hang])])
      const late = yield* Fallback.make([slow, b])
      assert.strictEqual(
        (yield* read(late.stream(LlmRequest.make({ prompt: "Hi", deadline: "3 seconds" })))).reason,
        "Timeout"
      )
      assert.strictEqual(yield* b.count, 0)
    })
  )

  it.effect("never emits a tool call twice: a break after one ends the stream", () =>
    Effect.gen(function* () {
      const call = { type: "tool-call", id: "1", name: "look", params: {} } as const
      const a = yield* provider("a", [ScriptedProvider.stream(["Let me look.", call, ScriptedProvider.cut])])
      const b = yield* provider("b", [ScriptedProvider.stream(["Let me look.", call])], true)
      const { parts, reason } = yield* read((yield* Fallback.make([a, b])).stream(request))

      assert.strictEqual(reason, "StreamCut")
      assert.strictEqual(parts.filter((part) => part.type === "tool-call").length, 1)
      assert.strictEqual(yield* b.count, 0)
    })
  )

  it.effect("brings the tool call that was still to come", () =>
    Effect.gen(function* () {
      const call = { type: "tool-call", id: "1", name: "look", params: {} } as const
      const a = yield* provider("a", [ScriptedProvider.stream(["Let me ", ScriptedProvider.cut])])
      const b = yield* provider("b", [ScriptedProvider.stream(["Let me look.", call])])
      const { parts, text } = yield* read((yield* Fallback.make([a, b])).stream(request))

      assert.strictEqual(text, "Let me look.")
      assert.strictEqual(parts.filter((part) => part.type === "tool-call").length, 1)
      assertWellFormed(parts)
    })
  )

  it.effect("closes the reasoning of the broken stream and leaves out that of the new one", () =>
    Effect.gen(function* () {
      const think = (text: string): ReadonlyArray<LlmResponse.LlmStreamPart> => [
        { type: "reasoning-start", id: "r" },
        { type: "reasoning-delta", id: "r", delta: text }
      ]
      const a = yield* provider("a", [ScriptedProvider.stream([...think("Hmm, a fox."), ScriptedProvider.cut])])
      const b = yield* provider("b", [
        ScriptedProvider.stream([...think("A fox? Well."), { type: "reasoning-end", id: "r" }, "The fox."])
      ])
      const { parts, text } = yield* read((yield* Fallback.make([a, b])).stream(request))

      assert.strictEqual(text, "The fox.")
      assertWellFormed(parts)
      assert.strictEqual(parts.filter((part) => part.type === "reasoning-delta").length, 1)
    })
  )

  it.effect("releases everything when the reader leaves in the middle of a recovery", () =>
    Effect.gen(function* () {
      const a = yield* provider("a", [pieces(answer, 5, 40)])
      const b = yield* provider("b", [ScriptedProvider.hang], true)
      const chain = yield* Fallback.make([a, b])
      const fiber = yield* Effect.forkChild(Stream.runDrain(chain.stream(request)))
      yield* b.awaitCalls(1)
      yield* Fiber.interrupt(fiber)

      assert.strictEqual(yield* a.running, 0)
      assert.strictEqual(yield* b.running, 0)
    })
  )

  it.effect("can be limited to a restart, or switched off", () =>
    Effect.gen(function* () {
      const run = Effect.fnUntraced(function* (recovery: "continue" | "restart" | "fail") {
        const a = yield* provider("a", [pieces(answer, 5, 40)])
        const b = yield* provider("b", obedient(answer), true)
        yield* read((yield* Fallback.make([a, b], { recovery })).stream(request))
        return (yield* b.calls).map((call) => prefillOf(call.request) !== undefined)
      })

      assert.deepStrictEqual(yield* run("continue"), [true])
      assert.deepStrictEqual(yield* run("restart"), [false])
      assert.deepStrictEqual(yield* run("fail"), [])
    })
  )

  it.effect("tells what it did", () =>
    Effect.gen(function* () {
      const hub = ResilienceEvent.makeHub()
      const a = yield* provider("a", [pieces(answer, 5, 40)])
      const b = yield* provider("b", obedient(answer), true)
      const chain = yield* Effect.provideService(Fallback.make([a, b]), ResilienceEvent.CurrentHub, hub)
      const events: Array<ResilienceEvent.ResilienceEvent> = []
      yield* Effect.forkChild(
        Stream.runForEach(hub.stream, (event) => Effect.sync(() => events.push(event))),
        { startImmediately: true }
      )
      yield* Effect.yieldNow
      yield* read(chain.stream(request))
      const recovered = events.find((event) => event._tag === "Recovered")

      assert.deepStrictEqual(
        recovered?._tag === "Recovered" ? [recovered.from, recovered.to, recovered.by] : undefined,
        ["a", "b", "continue"]
      )
    })
  )

  it.effect("either is the whole answer or ends with exactly one typed error, whatever breaks where", () =>
    Effect.gen(function* () {
      const outcomes = { whole: 0, error: 0 }
      for (let run = 0; run < 600; run++) {
        const alphabet = yield* Random.choice(["ab", "abc \n", "the fox is quick. "])
        const length = yield* Random.nextIntBetween(1, 120)
        const text = (yield* Effect.forEach(Array.from({ length }), () => Random.choice(alphabet.split("")))).join("")
        if (text.trim() === "") continue
        // A model that ignores the prefill and also says something else cannot be told from one that goes on, by anybody: `prefill` must
        // only be claimed for models that keep it. So a chain has the one kind or the other.
        const odd = yield* Random.choice(["ignoring", "different"] as const)
        const steps = yield* Effect.forEach(["a", "b", "c"], (id) =>
          Effect.gen(function* () {
            const kind = yield* Random.choice(["obedient", "refusing", odd] as const)
            const breaks = yield* Effect.forEach(Array.from({ length: 6 }), () => Random.nextIntBetween(0, text.length))
            const size = yield* Random.nextIntBetween(1, 9)
            const last = id === "c"
            return yield* provider(
              id,
              (index, asked) => {
                const prefill = prefillOf(asked)
                if (kind === "refusing" && prefill !== undefined) return ScriptedProvider.fail("InvalidRequest")
                const own = kind === "different" ? `#${text}` : text
                // Whoever continues goes on with what stands there, whoever wrote it.
                const begun = prefill?.startsWith("#") ? `#${text}` : text
                const rest = kind === "ignoring" || prefill === undefined ? own : begun.slice(prefill.length)
                return pieces(rest, size, last || index > 3 ? undefined : Math.max(1, breaks[index] ?? 1))
              },
              kind !== "different"
            )
          })
        )
        const [a, b, c] = steps
        if (a === undefined || b === undefined || c === undefined) continue
        const { parts, reason, text: seen } = yield* read((yield* Fallback.make([a, b, c])).stream(request))
        const possible = [text, `#${text}`]
        if (reason === undefined) {
          outcomes.whole++
          assert.include(possible, seen, `run ${run}`)
          assertWellFormed(parts)
        } else {
          outcomes.error++
          assert.isTrue(
            possible.some((whole) => whole.startsWith(seen)),
            `run ${run}: ${JSON.stringify([text, seen])}`
          )
          assert.strictEqual(parts.filter((part) => part.type === "finish").length, 0)
        }
        for (const step of steps) assert.strictEqual(yield* step.running, 0)
      }
      assert.isAbove(outcomes.whole, 100)
      assert.isAbove(outcomes.error, 20)
    }).pipe(Random.withSeed("recovery"))
  )

  it.effect("adds what was estimated to what the last provider reports, with every word that was paid for", () =>
    Effect.gen(function* () {
      const finish = { type: "finish", reason: "stop", usage: { inputTokens: {}, outputTokens: { total: 5 } } } as const
      const a = yield* provider("a", [pieces(answer, 5, 40)])
      const b = yield* provider("b", [pieces(answer, 5, 60)])
      const c = yield* provider("c", [ScriptedProvider.stream([answer, finish])])
      const { finish: end, text } = yield* read((yield* Fallback.make([a, b, c])).stream(request))

      assert.strictEqual(text, answer)
      assert.strictEqual(end?.type === "finish" ? end.usage.outputTokens.total : undefined, 10 + 15 + 5)
    })
  )

  it.effect("does not continue JSON: a document is begun anew, and only a restart can be trusted", () =>
    Effect.gen(function* () {
      const json = JSON.stringify({ name: "John Smith", age: 42, city: "Springfield", job: "clerk" })
      const asked = LlmRequest.make({
        prompt: "Who?",
        responseFormat: { type: "json", objectName: "person", schema: Schema.Struct({ name: Schema.String }) }
      })
      const a = yield* provider("a", [pieces(json, 5, 30)])
      const b = yield* provider("b", [pieces(json, 5)], true)
      const { text } = yield* read((yield* Fallback.make([a, b])).stream(asked))
      const [call] = yield* b.calls

      assert.strictEqual(text, json)
      assert.isUndefined(call === undefined ? undefined : prefillOf(call.request))
    })
  )

  it.effect("takes it for the end when a continuation has nothing to add, also under the guard", () =>
    Effect.gen(function* () {
      const a = yield* provider("a", [ScriptedProvider.stream([answer, ScriptedProvider.cut])])
      const b = yield* provider("b", obedient(answer), true)
      const guarded = yield* OutputGuard.policy()(b)
      const { reason, text } = yield* read((yield* Fallback.make([a, guarded])).stream(request))

      assert.isUndefined(reason)
      assert.strictEqual(text, answer)
    })
  )

  it.effect("does not swallow a text that rightly says the same twice", () =>
    Effect.gen(function* () {
      const verse = "春眠不觉晓处处闻啼鸟夜来风雨声花落知多少春天的早晨我听见了鸟的歌"
      const twice = `${verse}${verse}完。`
      const a = yield* provider("a", [pieces(twice, 3, verse.length)])
      const b = yield* provider("b", obedient(twice, 4), true)
      const { reason, text } = yield* read((yield* Fallback.make([a, b])).stream(request))

      assert.include([twice, verse], text)
      assert.strictEqual(reason === undefined, text === twice)
    })
  )

  it.effect("binds a step to its share until it says something new", () =>
    Effect.gen(function* () {
      const a = yield* provider("a", [pieces(answer, 5, 60)])
      const slow = ScriptedProvider.tokens(answer, { every: "5 seconds" })
      const b = yield* provider("b", [slow])
      const c = yield* provider("c", [pieces(answer, 9)])
      const { served, text } = yield* read(
        (yield* Fallback.make([a, b, c])).stream(LlmRequest.make({ prompt: "Hi", deadline: "30 seconds" }))
      )

      assert.strictEqual(text, answer)
      assert.strictEqual(served.at(-1)?.provider, "c")
    })
  )

  it.effect("leaves the whole time to the only step that is left", () =>
    Effect.gen(function* () {
      const a = yield* CircuitBreaker.policy({ trip: CircuitBreaker.consecutive(1) })(
        yield* provider("a", [pieces(answer, 5, 40)])
      )
      const b = yield* provider("b", [ScriptedProvider.delay("25 seconds", pieces(answer, 9))])
      const { text } = yield* read(
        (yield* Fallback.make([a, b])).stream(LlmRequest.make({ prompt: "Hi", deadline: "30 seconds" }))
      )

      assert.strictEqual(text, answer)
    })
  )

  it.effect("reports the first break after several", () =>
    Effect.gen(function* () {
      const a = yield* provider("a", [pieces(answer, 5, 40), ScriptedProvider.fail("Network")])
      const b = yield* provider("b", [
        ScriptedProvider.stream([answer.slice(0, 50), ScriptedProvider.fail("InvalidRequest")]),
        ScriptedProvider.fail("Network")
      ])
      const { reason } = yield* read((yield* Fallback.make([a, b])).stream(request))

      assert.strictEqual(reason, "StreamCut")
    })
  )

  it.effect("keeps what was said about a degraded part", () =>
    Effect.gen(function* () {
      const primary = yield* provider("p", [ScriptedProvider.fail("Overloaded"), pieces(answer, 7)])
      const small = yield* Degradation.policy("smaller")(
        yield* provider("s", [pieces(answer, 5, 60), ScriptedProvider.fail("Network")])
      )
      const { served } = yield* read((yield* Fallback.make([primary, small])).stream(request))

      assert.strictEqual(served.at(-1)?.provider, "p")
      assert.strictEqual(served.at(-1)?.degraded, "smaller")
      assert.strictEqual(served.at(-1)?.notice?._tag, "Shortened")
    })
  )

  it.effect("names all writers, those of a chain within the chain included", () =>
    Effect.gen(function* () {
      const outer = yield* provider("a", [pieces(answer, 5, 30)])
      const x = yield* provider("x", [pieces(answer, 5, 60)])
      const y = yield* provider("y", [pieces(answer, 9)])
      const inner = yield* Fallback.make([x, y], { id: "inner" })
      const { served, text } = yield* read((yield* Fallback.make([outer, inner])).stream(request))

      assert.strictEqual(text, answer)
      assert.includeMembers(served.at(-1)?.contributors?.map(({ provider }) => provider) ?? [], ["a", "x", "y"])
    })
  )

  it.effect("leaves a continuation only the room that is left", () =>
    Effect.gen(function* () {
      const a = yield* provider("a", [pieces(answer, 5, 40)])
      const b = yield* provider("b", obedient(answer), true)
      yield* read(
        (yield* Fallback.make([a, b])).stream(LlmRequest.make({ prompt: "Hi", settings: { maxOutputTokens: 30 } }))
      )
      const [call] = yield* b.calls

      assert.strictEqual(call?.request.settings.maxOutputTokens, 20)
    })
  )

  it.effect("follows the table: a row that does not fall over is not recovered", () =>
    Effect.gen(function* () {
      const a = yield* provider("a", [pieces(answer, 5, 40)])
      const b = yield* provider("b", obedient(answer), true)
      const chain = yield* Effect.provide(Fallback.make([a, b]), Decision.layer({ StreamCut: { fallOver: "no" } }))

      assert.strictEqual((yield* read(chain.stream(request))).reason, "StreamCut")
    })
  )
})

describe("Seam", () => {
  const feedAll = (seam: Seam.Seam, texts: ReadonlyArray<string>): string | undefined => {
    let state = seam
    let out = ""
    for (const text of texts) {
      const step = Seam.feed(state, text)
      if (step === undefined) return undefined
      state = step[0]
      out += step[1]
    }
    const rest = Seam.finish(state)
    return rest === undefined ? undefined : out + rest
  }
  const chunked = (text: string, size: number) =>
    Array.from({ length: Math.ceil(text.length / size) }, (_, index) => text.slice(index * size, (index + 1) * size))

  it.effect("joins a restart exactly or not at all", () =>
    Effect.gen(function* () {
      for (let run = 0; run < 2000; run++) {
        const text = (yield* Effect.forEach(Array.from({ length: 30 }), () => Random.choice(["a", "b", " "]))).join("")
        const at = yield* Random.nextIntBetween(0, text.length)
        const size = yield* Random.nextIntBetween(1, 7)
        assert.strictEqual(feedAll(Seam.restarting(text.slice(0, at)), chunked(text, size)), text.slice(at))
        if (at > 0) assert.isUndefined(feedAll(Seam.restarting(text.slice(0, at)), chunked(`#${text}`, size)))
      }
    }).pipe(Random.withSeed("seam"))
  )

  it("does not end in the middle of what the reader has seen", () => {
    assert.isUndefined(feedAll(Seam.restarting("Hello world"), ["Hello"]))
  })

  it("asks for no continuation of a text that is short or repeats itself", () => {
    assert.isUndefined(Seam.continuing("The fox"))
    assert.isUndefined(Seam.continuing("=".repeat(60)))
    assert.isUndefined(Seam.continuing("- item one\n- item two\n- item one\n- item two\n- item one\n"))
    assert.strictEqual(Seam.continuing("The quick brown fox jumps over \n")?.prefill, "The quick brown fox jumps over")
  })
})
