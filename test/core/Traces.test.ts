import { assert, describe, it } from "@effect/vitest"
import { LlmRequest, LlmResilience, LlmResponse, Provider, Traces } from "@llm-resilience/core"
import { ScriptedProvider } from "@llm-resilience/testing"
import { Effect, Exit, Fiber, Layer, Option, Stream, type Tracer } from "effect"
import { TestClock } from "effect/testing"
import { keptSpans } from "../support/keptSpans.ts"

const question = "a question that nobody may read"
const words = "an answer that nobody may read"
const request = LlmRequest.make({
  prompt: question,
  settings: { maxOutputTokens: 100, temperature: 0.5, topP: 0.9, stop: ["END"], seed: 7 }
})

const traced = Effect.fnUntraced(function* (
  options: Parameters<typeof LlmResilience.make<never>>[0],
  traces?: Traces.Options
) {
  const { spans, tracer } = keptSpans()
  const resilience = yield* LlmResilience.make(options)
  yield* Layer.build(Traces.layer(traces).pipe(Layer.provide(Layer.succeed(LlmResilience.LlmResilience, resilience))))
  return { resilience, spans, tracer }
})

const endOf = (span: Tracer.Span | undefined) => (span?.status._tag === "Ended" ? span.status.exit : undefined)
const eventsOf = (span: Tracer.NativeSpan | undefined) => span?.events.map(([name]) => name)
const providers = Effect.fnUntraced(function* (
  first: ReadonlyArray<ScriptedProvider.Step>,
  second: ReadonlyArray<ScriptedProvider.Step> = [ScriptedProvider.answer(words)]
) {
  const [a, b] = yield* Effect.all([
    ScriptedProvider.make({ id: "a", model: "large", script: first }),
    ScriptedProvider.make({ id: "b", model: "small", script: second })
  ])
  return [{ provider: a }, { provider: b }] as const
})

describe("Traces", () => {
  it.effect("show a request as one span with the attributes of the conventions", () =>
    Effect.gen(function* () {
      const usage = { inputTokens: { total: 12, cacheRead: 4 }, outputTokens: { total: 34, reasoning: 5 } }
      const steps = yield* providers([ScriptedProvider.answer(words, { usage })])
      const { resilience, spans, tracer } = yield* traced({ steps })
      yield* Effect.withTracer(resilience.generate(request), tracer)

      assert.strictEqual(spans.length, 1)
      assert.strictEqual(spans[0]?.name, "chat large")
      assert.strictEqual(spans[0]?.kind, "client")
      assert.deepStrictEqual(Object.fromEntries(spans[0]?.attributes ?? []), {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "a",
        "gen_ai.request.model": "large",
        "gen_ai.request.max_tokens": 100,
        "gen_ai.request.temperature": 0.5,
        "gen_ai.request.top_p": 0.9,
        "gen_ai.request.stop_sequences": ["END"],
        "gen_ai.request.seed": 7,
        "gen_ai.response.model": "large",
        "gen_ai.response.finish_reasons": ["stop"],
        "gen_ai.usage.input_tokens": 12,
        "gen_ai.usage.output_tokens": 34,
        "gen_ai.usage.cache_read.input_tokens": 4,
        "gen_ai.usage.reasoning.output_tokens": 5,
        "llm_resilience.request.id": 1
      })
      assert.deepStrictEqual(endOf(spans[0]), Exit.void)
      assert.deepStrictEqual(eventsOf(spans[0]), [])
    })
  )

  it.effect("show attempts, skips and fallbacks as events of the span, and who answered in its attributes", () =>
    Effect.gen(function* () {
      const steps = yield* providers([ScriptedProvider.fail("QuotaExhausted")])
      const { resilience, spans, tracer } = yield* traced({ steps })
      yield* Effect.withTracer(resilience.generate(request), tracer)
      yield* Effect.withTracer(resilience.generate(request), tracer)

      assert.deepStrictEqual(eventsOf(spans[0]), [
        "llm_resilience.attempt.failed",
        "llm_resilience.fallback",
        "llm_resilience.attempt.succeeded"
      ])
      assert.deepStrictEqual(eventsOf(spans[1]), [
        "llm_resilience.step.skipped",
        "llm_resilience.fallback",
        "llm_resilience.attempt.succeeded"
      ])
      assert.strictEqual(spans[0]?.attributes.get("gen_ai.provider.name"), "b")
      assert.strictEqual(spans[0]?.attributes.get("gen_ai.request.model"), "large")
      assert.strictEqual(spans[0]?.attributes.get("gen_ai.response.model"), "small")
      assert.strictEqual(spans[0]?.attributes.get("llm_resilience.notice"), "BackupService")
      assert.deepInclude(spans[0]?.events[1]?.[2], {
        "llm_resilience.from": "a",
        "llm_resilience.to": "b",
        "llm_resilience.reason": "QuotaExhausted"
      })
    })
  )

  it.effect("end in an error without the words of the provider, and in none when the caller leaves", () =>
    Effect.gen(function* () {
      const steps = yield* providers(
        [ScriptedProvider.fail("InvalidRequest", { description: question }), ScriptedProvider.hang],
        [ScriptedProvider.hang]
      )
      const { resilience, spans, tracer } = yield* traced({ steps })
      yield* Effect.exit(Effect.withTracer(resilience.generate(request), tracer))
      const gone = yield* Effect.forkChild(Effect.withTracer(resilience.generate(request), tracer), {
        startImmediately: true
      })
      yield* Fiber.interrupt(gone)
      const failed = endOf(spans[0])
      const left = endOf(spans[1])

      assert.strictEqual(spans[0]?.attributes.get("error.type"), "InvalidRequest")
      assert.isTrue(failed !== undefined && Exit.isFailure(failed) && !String(failed.cause).includes(question))
      assert.isTrue(left !== undefined && Exit.hasInterrupts(left))
      assert.isUndefined(spans[1]?.attributes.get("error.type"))
    })
  )

  it.effect("last until the end of a stream, however it ends", () =>
    Effect.gen(function* () {
      const steps = yield* providers([
        ScriptedProvider.delay("1 second", ScriptedProvider.tokens(words, { every: "1 second" }))
      ])
      const { resilience, spans, tracer } = yield* traced({ steps })
      const whole = yield* Effect.forkChild(Effect.withTracer(Stream.runDrain(resilience.stream(request)), tracer), {
        startImmediately: true
      })
      yield* TestClock.adjust("2 seconds")
      assert.strictEqual(spans[0]?.status._tag, "Started")
      yield* TestClock.adjust("1 minute")
      yield* Fiber.join(whole)
      const short = yield* Effect.forkChild(
        Effect.withTracer(Stream.runDrain(Stream.take(resilience.stream(request), 3)), tracer)
      )
      yield* TestClock.adjust("1 minute")
      yield* Fiber.join(short)

      assert.strictEqual(spans.length, 2)
      assert.strictEqual(spans[0]?.attributes.get("gen_ai.request.stream"), true)
      assert.strictEqual(spans[0]?.attributes.get("gen_ai.response.time_to_first_chunk"), 1)
      assert.deepStrictEqual(endOf(spans[0]), Exit.void)
      assert.isTrue(Exit.hasInterrupts(endOf(spans[1]) ?? Exit.void))
    })
  )

  it.effect("can show each call as a span of its own below the request, retries included", () =>
    Effect.gen(function* () {
      const steps = yield* providers([ScriptedProvider.fail("ServerError"), ScriptedProvider.answer(words)])
      const { resilience, spans, tracer } = yield* traced({ steps }, { attempts: "spans" })
      const fiber = yield* Effect.forkChild(Effect.withTracer(resilience.generate(request), tracer))
      yield* TestClock.adjust("1 minute")
      yield* Fiber.join(fiber)
      const [root, ...calls] = spans

      assert.strictEqual(root?.name, "llm_resilience.request")
      assert.strictEqual(root?.kind, "internal")
      // What the model did is said once.
      assert.deepStrictEqual([...(root?.attributes.keys() ?? [])], ["llm_resilience.request.id"])
      assert.deepStrictEqual(
        calls.map((span) => [span.name, span.kind, span.attributes.get("error.type")]),
        [
          ["chat large", "client", "ServerError"],
          ["chat large", "client", undefined]
        ]
      )
      assert.isTrue(calls.every((span) => Option.getOrUndefined(span.parent)?.spanId === root?.spanId))
      assert.isTrue(spans.every(({ status }) => status._tag === "Ended"))
    })
  )

  it.effect("leave the span of the application current behind them, however the request ends", () =>
    Effect.gen(function* () {
      const steps = yield* providers([
        ScriptedProvider.answer(words),
        ScriptedProvider.fail("InvalidRequest"),
        ScriptedProvider.hang
      ])
      const { resilience, tracer } = yield* traced({ steps })
      const after = yield* Effect.gen(function* () {
        yield* resilience.generate(request)
        const answered = yield* Effect.currentSpan
        yield* Effect.exit(resilience.generate(request))
        const failed = yield* Effect.currentSpan
        const names = [answered.name, failed.name]
        const hanging = yield* resilience.generate(request).pipe(
          Effect.onExit(() => Effect.map(Effect.currentSpan, ({ name }) => void names.push(name))),
          Effect.forkChild({ startImmediately: true })
        )
        yield* Fiber.interrupt(hanging)
        return names
      }).pipe(Effect.withSpan("application"), Effect.withTracer(tracer))

      assert.deepStrictEqual(after, ["application", "application", "application"])
    })
  )

  it.effect("are the current span while a provider is called, below that of the application", () =>
    Effect.gen(function* () {
      const seen: Array<string | undefined> = []
      const { spans, tracer } = keptSpans()
      const [step] = yield* providers([ScriptedProvider.answer(words)])
      const watching = {
        ...step.provider,
        generate: (request: LlmRequest.LlmRequest) =>
          Effect.flatMap(Effect.option(Effect.currentSpan), (span) => {
            seen.push(Option.getOrUndefined(span)?.spanId)
            return step.provider.generate(request)
          })
      }
      const { resilience } = yield* traced({ steps: [{ provider: watching }] })
      yield* resilience.generate(request).pipe(Effect.withSpan("application"), Effect.withTracer(tracer))

      assert.deepStrictEqual(
        spans.map(({ name }) => name),
        ["application", "chat large"]
      )
      assert.deepStrictEqual(seen, [spans[1]?.spanId])
      assert.strictEqual(Option.getOrUndefined(spans[1]?.parent ?? Option.none())?.spanId, spans[0]?.spanId)
    })
  )

  it.effect("hold prompts and answers only when they are told to, whole and streamed", () =>
    Effect.gen(function* () {
      for (const content of ["omit", "record"] as const) {
        const steps = yield* providers([ScriptedProvider.answer(words)])
        const { resilience, spans, tracer } = yield* traced({ steps }, { content })
        yield* Effect.withTracer(resilience.generate(request), tracer)
        yield* Effect.withTracer(Stream.runDrain(resilience.stream(request)), tracer)

        for (const span of spans) {
          const all = JSON.stringify([
            [...span.attributes],
            span.events.map(([name, , attributes]) => [name, attributes])
          ])
          assert.strictEqual(all.includes(question), content === "record")
          assert.strictEqual(all.includes(words), content === "record")
        }
        if (content === "record") {
          assert.deepStrictEqual(JSON.parse(String(spans[0]?.attributes.get("gen_ai.output.messages"))), [
            { role: "assistant", parts: [{ type: "text", content: words }], finish_reason: "stop" }
          ])
        }
      }
    })
  )

  it.effect("leave out content that cannot be written, and never fail the call for it", () =>
    Effect.gen(function* () {
      const provider = Provider.make({
        id: "a",
        model: "large",
        generate: () =>
          Effect.succeed({
            content: [
              { type: "tool-call", id: "1", name: "count", params: { to: 10n } },
              { type: "finish", reason: "tool-calls", usage: LlmResponse.unknownUsage }
            ]
          })
      })
      const { resilience, spans, tracer } = yield* traced({ steps: [{ provider }] }, { content: "record" })
      const response = yield* Effect.withTracer(resilience.generate(request), tracer)

      assert.strictEqual(response.toolCalls.length, 1)
      assert.isUndefined(spans[0]?.attributes.get("gen_ai.output.messages"))
      assert.isDefined(spans[0]?.attributes.get("gen_ai.input.messages"))
    })
  )

  it.effect("leave out what an answer from the cache would cost a second time", () =>
    Effect.gen(function* () {
      const usage = { inputTokens: { total: 12 }, outputTokens: { total: 34 } }
      const steps = yield* providers([ScriptedProvider.answer(words, { usage })])
      const { resilience, spans, tracer } = yield* traced({
        steps,
        around: (self) =>
          Effect.succeed({
            ...self,
            generate: (request) =>
              Effect.map(self.generate(request), (response) =>
                LlmResponse.withServed(response, { ...response.served, from: "cache" })
              )
          })
      })
      yield* Effect.withTracer(resilience.generate(request), tracer)

      assert.strictEqual(spans[0]?.attributes.get("llm_resilience.served.from"), "cache")
      assert.isUndefined(spans[0]?.attributes.get("gen_ai.usage.input_tokens"))
    })
  )

  it.effect("disappear with their layer", () =>
    Effect.gen(function* () {
      const steps = yield* providers([ScriptedProvider.answer(words)])
      const { spans, tracer } = keptSpans()
      const resilience = yield* LlmResilience.make({ steps })
      const layer = Traces.layer().pipe(Layer.provide(Layer.succeed(LlmResilience.LlmResilience, resilience)))
      yield* Effect.scoped(Effect.andThen(Layer.build(layer), Effect.withTracer(resilience.generate(request), tracer)))
      yield* Effect.withTracer(resilience.generate(request), tracer)

      assert.strictEqual(spans.length, 1)
    })
  )
})
