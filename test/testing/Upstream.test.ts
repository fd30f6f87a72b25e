import { assert, describe, it } from "@effect/vitest"
import { Fault, Upstream } from "@llm-resilience/testing"
import type { Answer } from "@llm-resilience/testing"
import { Deferred, Effect, Exit, Fiber, Schedule, Scope } from "effect"
import * as Http from "node:http"
import * as Net from "node:net"

const text = "Grüße aus Zürich 👋🏽 von uns"

// The bytes of these two are looked at here; those of the others are read by their adapters, in every test over the wire.
type Protocol = Extract<Answer.Protocol, "openai" | "anthropic">

interface Ask {
  readonly protocol: Protocol
  readonly stream?: boolean
  readonly signal?: AbortSignal
  readonly body?: object
}

const post = (upstream: Upstream.Upstream, options: Ask): Promise<Response> =>
  fetch(`${upstream.baseUrl}/${options.protocol === "openai" ? "chat/completions" : "messages"}`, {
    method: "POST",
    headers: { "content-type": "application/json", "anthropic-version": "2023-06-01" },
    signal: options.signal ?? null,
    body: JSON.stringify({
      model: "model-1",
      messages: [{ role: "user", content: "Hi there" }],
      ...(options.protocol === "anthropic" ? { max_tokens: 100 } : {}),
      stream: options.stream ?? false,
      ...options.body
    })
  })

const ask = (upstream: Upstream.Upstream, options: Ask) =>
  Effect.tryPromise({ try: () => post(upstream, options), catch: (cause) => cause })

/** Reads a body to its end, however that is, and tells which it was. */
const readAll = (response: Response) =>
  Effect.gen(function* () {
    const chunks: Array<Uint8Array> = []
    const reader = response.body?.getReader()
    const read = Effect.tryPromise({ try: async () => reader?.read(), catch: (cause) => cause })
    const exit = yield* Effect.exit(
      Effect.repeat(
        Effect.map(read, (result) => {
          if (result?.value !== undefined) chunks.push(result.value)
          return result?.done ?? true
        }),
        { until: (done) => done }
      )
    )
    return { text: Buffer.concat(chunks).toString("utf8"), isComplete: Exit.isSuccess(exit), chunks }
  })

/** Reads a body until it contains what is looked for, and leaves it open. */
const readUntil = (response: Response, found: (text: string) => boolean) =>
  Effect.gen(function* () {
    const chunks: Array<Uint8Array> = []
    const reader = response.body?.getReader()
    const soFar = () => Buffer.concat(chunks).toString("utf8")
    yield* Effect.promise(async () => {
      const result = await reader?.read()
      if (result?.value !== undefined) chunks.push(result.value)
    }).pipe(Effect.repeat({ until: () => found(soFar()) }))
    return soFar()
  })

const askAll = (upstream: Upstream.Upstream, options: Ask) =>
  Effect.flatMap(ask(upstream, options), (response) =>
    Effect.map(readAll(response), (body) => ({ status: response.status, headers: response.headers, ...body }))
  )

interface SseEvent {
  readonly event?: string
  readonly data: string
}

const eventsOf = (body: string): ReadonlyArray<SseEvent> =>
  body
    .split("\n\n")
    .filter((block) => block !== "")
    .map((block) =>
      Object.fromEntries(
        block.split("\n").map((line) => [line.slice(0, line.indexOf(":")), line.slice(line.indexOf(":") + 2)])
      )
    )
    .map((fields) => ({ ...fields, data: fields["data"] ?? "" }))

const Deltas = {
  openai: (json: { choices?: Array<{ delta: { content?: string | null } }> }) => json.choices?.[0]?.delta.content ?? "",
  anthropic: (json: { delta?: { text?: string } }) => json.delta?.text ?? ""
}

const deltasOf = (protocol: Protocol, body: string): ReadonlyArray<string> =>
  eventsOf(body)
    .filter(({ data }) => data.startsWith("{") && data.endsWith("}"))
    .map(({ data }) => Deltas[protocol](JSON.parse(data)))
    .filter((delta) => delta !== "")

const contentOf = (protocol: Protocol, body: string): string => {
  const json = JSON.parse(body)
  return protocol === "openai" ? json.choices[0].message.content : json.content[0].text
}

const terminators = { openai: "data: [DONE]", anthropic: "event: message_stop" }
const finishes = { openai: `"finish_reason":"stop"`, anthropic: `"stop_reason":"end_turn"` }
const tokens = ["Grüße", " aus", " Zürich", " 👋🏽", " von", " uns"]

const causeCode = (error: unknown): unknown =>
  error instanceof Error && error.cause instanceof Error && "code" in error.cause ? error.cause.code : undefined

const elapsed = <A, E, R>(effect: Effect.Effect<A, E, R>) =>
  Effect.suspend(() => {
    const start = performance.now()
    return Effect.map(effect, (value) => ({ value, millis: performance.now() - start }))
  })

/** A scope that the test closes itself. */
const startIn = (options?: Upstream.Options) =>
  Effect.gen(function* () {
    const scope = yield* Scope.make()
    const upstream = yield* Effect.provideService(Upstream.make(options), Scope.Scope, scope)
    return { upstream, stop: Scope.close(scope, Exit.void) }
  })

describe("Upstream speaks OpenAI", () => {
  it.live("answers whole", () =>
    Effect.gen(function* () {
      const upstream = yield* Upstream.make({ answer: text })

      const answer = yield* askAll(upstream, { protocol: "openai" })

      assert.strictEqual(answer.status, 200)
      assert.strictEqual(answer.headers.get("content-type"), "application/json")
      assert.strictEqual(answer.headers.get("content-length"), String(Buffer.byteLength(answer.text)))
      assert.match(answer.headers.get("x-request-id") ?? "", /^req_/)
      assert.strictEqual(answer.headers.get("x-ratelimit-remaining-requests"), "9999")
      assert.deepNestedInclude(JSON.parse(answer.text), {
        object: "chat.completion",
        model: "model-1",
        "choices[0].message.role": "assistant",
        "choices[0].message.content": text,
        "choices[0].finish_reason": "stop",
        "usage.prompt_tokens": 2,
        "usage.completion_tokens": 6,
        "usage.total_tokens": 8
      })
    })
  )

  it.live("streams the role, each token, the finish, and [DONE]", () =>
    Effect.gen(function* () {
      const upstream = yield* Upstream.make({ answer: text })

      const answer = yield* askAll(upstream, { protocol: "openai", stream: true })
      const data = eventsOf(answer.text).map((event) => event.data)
      const chunks = data.slice(0, -1).map((json) => JSON.parse(json))

      assert.match(answer.headers.get("content-type") ?? "", /^text\/event-stream/)
      assert.strictEqual(data.at(-1), "[DONE]")
      assert.deepStrictEqual(
        chunks.map((chunk) => chunk.choices[0].delta),
        [{ role: "assistant", content: "", refusal: null }, ...tokens.map((content) => ({ content })), {}]
      )
      assert.deepStrictEqual(
        chunks.map((chunk) => chunk.choices[0].finish_reason),
        [...Array.from({ length: 7 }, () => null), "stop"]
      )
      assert.isTrue(chunks.every((chunk) => chunk.id === chunks[0].id && !("usage" in chunk)))
    })
  )

  it.live("ends a stream with its usage when asked to", () =>
    Effect.gen(function* () {
      const upstream = yield* Upstream.make({ answer: { text, usage: { inputTokens: 11, outputTokens: 7 } } })

      const answer = yield* askAll(upstream, {
        protocol: "openai",
        stream: true,
        body: { stream_options: { include_usage: true } }
      })
      const chunks = eventsOf(answer.text)
        .slice(0, -1)
        .map((event) => JSON.parse(event.data))

      assert.isTrue(chunks.slice(0, -1).every((chunk) => chunk.usage === null))
      assert.deepStrictEqual(chunks.at(-1).choices, [])
      assert.strictEqual(chunks.at(-1).usage.total_tokens, 18)
    })
  )

  it.live("calls tools whole and streamed", () =>
    Effect.gen(function* () {
      const params = { query: "Zürich weather", days: 3 }
      const upstream = yield* Upstream.make({
        answer: {
          toolCalls: [
            { id: "call_a", name: "search", params },
            { name: "now", params: "{broken" }
          ]
        }
      })

      const whole = JSON.parse((yield* askAll(upstream, { protocol: "openai" })).text).choices[0]
      const streamed = eventsOf((yield* askAll(upstream, { protocol: "openai", stream: true })).text)
        .filter((event) => event.data.startsWith("{"))
        .map((event) => JSON.parse(event.data).choices[0])
      const pieces = streamed.flatMap((choice) => choice.delta.tool_calls ?? [])
      const argumentsOf = (index: number) =>
        pieces.filter((piece) => piece.index === index).reduce((all, piece) => all + piece.function.arguments, "")

      assert.strictEqual(whole.finish_reason, "tool_calls")
      assert.isNull(whole.message.content)
      assert.deepInclude(whole.message.tool_calls[0], {
        id: "call_a",
        function: { name: "search", arguments: JSON.stringify(params) }
      })
      assert.match(whole.message.tool_calls[1].id, /^call_/)
      assert.deepInclude(pieces[0], {
        index: 0,
        id: "call_a",
        type: "function",
        function: { name: "search", arguments: "" }
      })
      assert.deepStrictEqual(JSON.parse(argumentsOf(0)), params)
      assert.strictEqual(argumentsOf(1), "{broken")
      assert.strictEqual(streamed.at(-1).finish_reason, "tool_calls")
    })
  )

  it.live("refuses, reasons, stops for any reason and answers for another model", () =>
    Effect.gen(function* () {
      const upstream = yield* Upstream.make()
      const message = (reply: Answer.Reply) =>
        Effect.gen(function* () {
          yield* upstream.setAnswer(reply)
          const whole = JSON.parse((yield* askAll(upstream, { protocol: "openai" })).text)
          const streamed = yield* askAll(upstream, { protocol: "openai", stream: true })
          return { whole: whole.choices[0], model: whole.model, streamed: streamed.text }
        })

      const refused = yield* message({ refusal: "I cannot help." })
      const reasoned = yield* message({ reasoning: "Let me think", text: "42" })
      const cutShort = yield* message({ text: "It goes", finish: "length", model: "model-2" })
      const odd = yield* message({ text: "Hm", finish: "weird_reason" })

      assert.deepInclude(refused.whole.message, { content: null, refusal: "I cannot help." })
      assert.include(refused.streamed, `"refusal":" cannot"`)
      assert.deepInclude(reasoned.whole.message, { content: "42", reasoning_content: "Let me think" })
      assert.include(reasoned.streamed, `"reasoning_content":" me"`)
      assert.deepInclude(cutShort, { model: "model-2" })
      assert.strictEqual(cutShort.whole.finish_reason, "length")
      assert.include(cutShort.streamed, `"finish_reason":"length"`)
      assert.strictEqual(odd.whole.finish_reason, "weird_reason")
    })
  )
})

describe("Upstream speaks Anthropic", () => {
  it.live("answers whole", () =>
    Effect.gen(function* () {
      const upstream = yield* Upstream.make({
        answer: { text, usage: { inputTokens: 10, outputTokens: 4, cachedInputTokens: 3 } }
      })

      const answer = yield* askAll(upstream, { protocol: "anthropic" })

      assert.strictEqual(answer.status, 200)
      assert.match(answer.headers.get("request-id") ?? "", /^req_/)
      assert.strictEqual(answer.headers.get("anthropic-ratelimit-requests-remaining"), "3999")
      assert.match(answer.headers.get("anthropic-ratelimit-tokens-reset") ?? "", /^\d{4}-\d\d-\d\dT[\d:.]+Z$/)
      assert.deepNestedInclude(JSON.parse(answer.text), {
        type: "message",
        role: "assistant",
        "content[0]": { type: "text", text },
        stop_reason: "end_turn",
        stop_sequence: null,
        "usage.input_tokens": 7,
        "usage.cache_read_input_tokens": 3,
        "usage.output_tokens": 4
      })
    })
  )

  it.live("streams its events in order, each under its own name", () =>
    Effect.gen(function* () {
      const upstream = yield* Upstream.make({ answer: text })

      const answer = yield* askAll(upstream, { protocol: "anthropic", stream: true })
      const events = eventsOf(answer.text)

      assert.deepStrictEqual(
        events.map((event) => event.event),
        [
          "message_start",
          "content_block_start",
          "ping",
          ...tokens.map(() => "content_block_delta"),
          "content_block_stop",
          "message_delta",
          "message_stop"
        ]
      )
      assert.isTrue(events.every((event) => JSON.parse(event.data).type === event.event))
      assert.deepStrictEqual(deltasOf("anthropic", answer.text), tokens)
      assert.deepNestedInclude(JSON.parse(events.at(-2)?.data ?? ""), {
        "delta.stop_reason": "end_turn",
        "usage.output_tokens": 6
      })
    })
  )

  it.live("calls tools whole and streamed, after thinking and text", () =>
    Effect.gen(function* () {
      const params = { query: "Zürich weather" }
      const upstream = yield* Upstream.make({
        answer: { reasoning: "Hm, well", text: "One moment", toolCalls: [{ name: "search", params }] }
      })

      const whole = JSON.parse((yield* askAll(upstream, { protocol: "anthropic" })).text)
      const events = eventsOf((yield* askAll(upstream, { protocol: "anthropic", stream: true })).text).map((event) =>
        JSON.parse(event.data)
      )
      const json = events
        .filter((event) => event.delta?.type === "input_json_delta")
        .map((event) => event.delta.partial_json)

      assert.deepStrictEqual(
        whole.content.map((block: { type: string }) => block.type),
        ["thinking", "text", "tool_use"]
      )
      assert.deepStrictEqual(whole.content[2].input, params)
      assert.strictEqual(whole.stop_reason, "tool_use")
      assert.deepStrictEqual(
        events.filter((event) => event.type === "content_block_start").map((event) => event.content_block.type),
        ["thinking", "text", "tool_use"]
      )
      assert.deepStrictEqual(
        events.filter((event) => event.type === "content_block_start").map((event) => event.index),
        [0, 1, 2]
      )
      assert.isTrue(events.some((event) => event.delta?.type === "signature_delta"))
      assert.deepStrictEqual(JSON.parse(json.join("")), params)
      assert.strictEqual(events.at(-2).delta.stop_reason, "tool_use")
    })
  )

  it.live("refuses with the stop reason of that name and stops for any other", () =>
    Effect.gen(function* () {
      const upstream = yield* Upstream.make({ answer: { refusal: "I cannot help." } })

      const refused = JSON.parse((yield* askAll(upstream, { protocol: "anthropic" })).text)
      yield* upstream.setAnswer({ text: "It goes", finish: "length" })
      const cutShort = JSON.parse((yield* askAll(upstream, { protocol: "anthropic" })).text)

      assert.strictEqual(refused.stop_reason, "refusal")
      assert.strictEqual(refused.content[0].text, "I cannot help.")
      assert.strictEqual(cutShort.stop_reason, "max_tokens")
    })
  )
})

describe("Upstream", () => {
  it.live("lets a function answer what was asked", () =>
    Effect.gen(function* () {
      const seen: Array<Answer.Question> = []
      const upstream = yield* Upstream.make({
        answer: (question) => {
          seen.push(question)
          return question.text.toUpperCase()
        }
      })
      const messages = [
        { role: "user", content: [{ type: "text", text: "first" }] },
        { role: "assistant", content: "second" },
        { role: "user", content: "third" }
      ]

      const openai = yield* askAll(upstream, {
        protocol: "openai",
        body: {
          messages: [{ role: "system", content: "Be brief" }, ...messages],
          tools: [{ type: "function", function: { name: "search", parameters: {} } }]
        }
      })
      const anthropic = yield* askAll(upstream, {
        protocol: "anthropic",
        stream: true,
        body: { system: "Be brief", messages, tools: [{ name: "search", input_schema: {} }] }
      })

      assert.strictEqual(contentOf("openai", openai.text), "THIRD")
      assert.deepStrictEqual(deltasOf("anthropic", anthropic.text), ["THIRD"])
      const common = {
        model: "model-1",
        system: "Be brief",
        text: "third",
        tools: ["search"],
        messages: [
          { role: "user", text: "first" },
          { role: "assistant", text: "second" },
          { role: "user", text: "third" }
        ]
      }
      assert.deepInclude(seen[0], { ...common, protocol: "openai", index: 0, stream: false })
      assert.deepInclude(seen[1], { ...common, protocol: "anthropic", index: 1, stream: true })
    })
  )

  it.live("refuses requests as the real servers do", () =>
    Effect.gen(function* () {
      const upstream = yield* Upstream.make({ maxBodyBytes: 2000 })
      const raw = (path: string, init: RequestInit) =>
        Effect.promise(() =>
          fetch(`${upstream.url}${path}`, init).then((response) =>
            response.text().then((body) => ({ status: response.status, json: JSON.parse(body) }))
          )
        )

      const nowhere = yield* raw("/v1/nothing", { method: "POST", body: "{}" })
      const get = yield* raw("/v1/messages", { method: "GET" })
      const broken = yield* raw("/openai/v1/chat/completions?api-version=1", { method: "POST", body: "{" })
      const empty = yield* raw("/v1/chat/completions", { method: "POST", body: `{"model":"m","messages":[]}` })
      const unversioned = yield* raw("/v1/messages", { method: "POST", body: "{}" })
      const long = yield* askAll(upstream, { protocol: "anthropic", body: { system: "x".repeat(3000) } })

      assert.strictEqual(nowhere.status, 404)
      assert.strictEqual(get.status, 405)
      assert.strictEqual(get.json.type, "error")
      assert.strictEqual(broken.status, 400)
      assert.strictEqual(broken.json.error.type, "invalid_request_error")
      assert.strictEqual(empty.status, 400)
      assert.include(empty.json.error.message, "messages")
      assert.strictEqual(unversioned.json.error.message, "anthropic-version: header is required")
      assert.strictEqual(long.status, 413)
      assert.strictEqual(JSON.parse(long.text).error.type, "request_too_large")
    })
  )

  it.live("wants its key when it has one", () =>
    Effect.gen(function* () {
      const upstream = yield* Upstream.make({ apiKey: "secret" })
      const status = (path: string, headers: Record<string, string>, body: object) =>
        Effect.promise(() =>
          fetch(`${upstream.baseUrl}${path}`, { method: "POST", headers, body: JSON.stringify(body) }).then(
            (response) => response.status
          )
        )
      const messages = [{ role: "user", content: "Hi" }]
      const openai = { model: "m", messages }
      const anthropic = { model: "m", max_tokens: 5, messages }
      const version = { "anthropic-version": "2023-06-01" }

      assert.strictEqual(yield* status("/chat/completions", {}, openai), 401)
      assert.strictEqual(yield* status("/chat/completions", { authorization: "Bearer wrong" }, openai), 401)
      assert.strictEqual(yield* status("/chat/completions", { authorization: "Bearer secret" }, openai), 200)
      assert.strictEqual(yield* status("/messages", { ...version, "x-api-key": "wrong" }, anthropic), 401)
      assert.strictEqual(yield* status("/messages", { ...version, "x-api-key": "secret" }, anthropic), 200)
    })
  )

  it.live("records what it received, within its bound", () =>
    Effect.gen(function* () {
      const upstream = yield* Upstream.make({ maxRequests: 2 })

      yield* Effect.forEach([1, 2, 3], (n) => askAll(upstream, { protocol: "openai", body: { seed: n } }))
      yield* upstream.awaitRequests(3)
      const requests = yield* upstream.requests

      assert.deepStrictEqual(
        requests.map((request) => request.index),
        [1, 2]
      )
      assert.deepInclude(requests[0], { method: "POST", path: "/v1/chat/completions" })
      assert.deepNestedInclude(requests[1], { "body.seed": 3, "headers.content-type": "application/json" })
      assert.isTrue(
        requests.every(({ answeredAt, receivedAt }) => answeredAt !== undefined && answeredAt >= receivedAt)
      )
    })
  )

  it.live("applies a function of faults to the requests since it was set", () =>
    Effect.gen(function* () {
      const upstream = yield* Upstream.make({ fault: (index) => (index === 0 ? Fault.status(500) : undefined) })
      const statuses = Effect.forEach([1, 2], () =>
        Effect.map(askAll(upstream, { protocol: "openai" }), (answer) => answer.status)
      )

      const first = yield* statuses
      yield* upstream.setFault((index) => (index === 1 ? Fault.status(503) : undefined))
      const second = yield* statuses
      yield* upstream.setFault(undefined)
      const third = yield* statuses

      assert.deepStrictEqual(
        [first, second, third],
        [
          [500, 200],
          [200, 503],
          [200, 200]
        ]
      )
    })
  )

  it.live("says so when the test's own answer throws", () =>
    Effect.gen(function* () {
      const upstream = yield* Upstream.make({
        answer: () => {
          throw new Error("a bug in the test")
        }
      })

      const answer = yield* askAll(upstream, { protocol: "openai" })

      assert.strictEqual(answer.status, 500)
      assert.include(answer.text, "a bug in the test")
    })
  )

  it.effect("takes its time on the real clock even under a test clock", () =>
    Effect.gen(function* () {
      const upstream = yield* Upstream.make({ answer: "one two three", tokenEvery: "20 millis" })

      const streamed = yield* elapsed(askAll(upstream, { protocol: "anthropic", stream: true }))
      const whole = yield* elapsed(askAll(upstream, { protocol: "openai" }))

      assert.deepStrictEqual(deltasOf("anthropic", streamed.value.text), ["one", " two", " three"])
      assert.isAtLeast(streamed.millis, 38)
      assert.isAtLeast(whole.millis, 38)
    })
  )

  it.live("is provided by its layer", () =>
    Effect.gen(function* () {
      const upstream = yield* Upstream.Upstream

      assert.strictEqual(contentOf("openai", (yield* askAll(upstream, { protocol: "openai" })).text), "from a layer")
    }).pipe(Effect.provide(Upstream.layer({ answer: "from a layer" })))
  )

  it("rejects options that make no sense", () => {
    assert.throws(() => Upstream.make({ maxRequests: 0 }), "maxRequests must be an integer >= 1, got 0")
    assert.throws(() => Upstream.make({ maxBodyBytes: 0.5 }), RangeError)
    assert.throws(() => Fault.status(700), RangeError)
    assert.throws(() => Fault.cut(-1), "Fault.cut: afterParts must be an integer >= 0, got -1")
    assert.throws(() => Fault.trickle(0), RangeError)
    assert.throws(() => Fault.wrongContentLength(0), RangeError)
  })
})

describe.each(["openai", "anthropic"] as const)("Fault over %s", (protocol) => {
  it.live("truncate ends the response properly after a share of its bytes", () =>
    Effect.gen(function* () {
      const upstream = yield* Upstream.make({ answer: text })
      const whole = yield* askAll(upstream, { protocol })
      for (const share of [0, 0.5, 1]) {
        yield* upstream.setFault(Fault.truncate(share))
        const some = yield* askAll(upstream, { protocol })

        assert.isTrue(some.isComplete)
        const length = Buffer.concat(some.chunks).length
        assert.strictEqual(length, Math.floor(Buffer.concat(whole.chunks).length * share))
      }
      assert.throws(() => Fault.truncate(1.1), "Fault.truncate: share must be from 0 to 1, got 1.1")
    })
  )

  const withFault = (fault: Fault.Fault) => Upstream.make({ answer: text, fault })
  const whole = (fault: Fault.Fault) => Effect.flatMap(withFault(fault), (upstream) => askAll(upstream, { protocol }))
  const streamed = (fault: Fault.Fault) =>
    Effect.flatMap(withFault(fault), (upstream) => askAll(upstream, { protocol, stream: true }))

  it.live("status: any status with the error body of the protocol", () =>
    Effect.gen(function* () {
      for (const ask of [whole, streamed]) {
        const limited = yield* ask(Fault.status(429, { headers: { "Retry-After": "7", "X-Request-Id": "mine" } }))
        const gateway = yield* ask(Fault.status(502, { body: "<html>Bad gateway</html>" }))
        const custom = yield* ask(Fault.status(418, { body: { teapot: true } }))

        assert.strictEqual(limited.status, 429)
        assert.strictEqual(limited.headers.get("retry-after"), "7")
        assert.strictEqual(limited.headers.get("x-request-id"), "mine")
        assert.include(
          ["rate_limit_exceeded", "rate_limit_error"],
          JSON.parse(limited.text).error[protocol === "openai" ? "code" : "type"]
        )
        assert.strictEqual(gateway.status, 502)
        assert.strictEqual(gateway.text, "<html>Bad gateway</html>")
        assert.strictEqual(custom.status, 418)
        assert.deepStrictEqual(JSON.parse(custom.text), { teapot: true })
      }
    })
  )

  it.live("resetBeforeHeaders: the connection is reset", () =>
    Effect.gen(function* () {
      for (const ask of [whole, streamed]) {
        const error = yield* Effect.flip(ask(Fault.resetBeforeHeaders))

        assert.strictEqual(causeCode(error), "ECONNRESET")
      }
    })
  )

  it.live("silence: nothing comes until the client leaves, which the server sees at once", () =>
    Effect.gen(function* () {
      const upstream = yield* withFault(Fault.silence)
      for (const stream of [false, true]) {
        const controller = new AbortController()
        const fiber = yield* Effect.forkChild(
          Effect.exit(ask(upstream, { protocol, stream, signal: controller.signal }))
        )
        yield* upstream.awaitRequests(stream ? 2 : 1)
        const pending = fiber.pollUnsafe()
        const { millis } = yield* elapsed(
          Effect.andThen(
            Effect.sync(() => controller.abort()),
            upstream.awaitAborted(stream ? 2 : 1)
          )
        )

        assert.isUndefined(pending)
        assert.isBelow(millis, 100)
        assert.isTrue(Exit.isFailure(yield* Fiber.join(fiber)))
      }
      assert.isTrue(
        (yield* upstream.requests).every(
          (request) => request.abortedAt !== undefined && request.answeredAt === undefined
        )
      )
    })
  )

  it.live("slowFirstToken: the preamble comes at once, the first token later", () =>
    Effect.gen(function* () {
      const upstream = yield* withFault(Fault.slowFirstToken("60 millis"))

      const slow = yield* elapsed(askAll(upstream, { protocol }))
      const response = yield* ask(upstream, { protocol, stream: true })
      const arrived = yield* Deferred.make<string>()
      const rest = yield* elapsed(
        Effect.gen(function* () {
          const preamble = yield* readUntil(response, (body) => body.includes("\n\n"))
          yield* Deferred.succeed(arrived, preamble)
        })
      )
      const first = yield* elapsed(streamed(Fault.slowFirstToken("60 millis")))

      assert.strictEqual(contentOf(protocol, slow.value.text), text)
      assert.isAtLeast(slow.millis, 59)
      assert.deepStrictEqual(deltasOf(protocol, yield* Deferred.await(arrived)), [])
      assert.isBelow(rest.millis, 55)
      assert.deepStrictEqual(deltasOf(protocol, first.value.text), tokens)
      assert.isAtLeast(first.millis, 59)
    })
  )

  it.live("stall: some parts arrive, then silence; the server sees the client leave at once", () =>
    Effect.gen(function* () {
      const upstream = yield* withFault(Fault.stall(2))
      for (const stream of [true, false]) {
        const controller = new AbortController()
        const response = yield* ask(upstream, { protocol, stream, signal: controller.signal })
        const body = yield* readUntil(response, (body) =>
          stream ? deltasOf(protocol, body).length === 2 : body.length > 0
        )
        const { millis } = yield* elapsed(
          Effect.andThen(
            Effect.sync(() => controller.abort()),
            upstream.awaitAborted(stream ? 1 : 2)
          )
        )

        assert.strictEqual(response.status, 200)
        if (stream) assert.deepStrictEqual(deltasOf(protocol, body), tokens.slice(0, 2))
        else assert.throws(() => JSON.parse(body))
        assert.isBelow(millis, 100)
      }
    })
  )

  it.live("cut: the connection breaks in the middle", () =>
    Effect.gen(function* () {
      const upstream = yield* withFault(Fault.cut(2))

      const stream = yield* askAll(upstream, { protocol, stream: true })
      const body = yield* askAll(upstream, { protocol })
      const preamble = yield* streamed(Fault.cut(0))
      const late = yield* streamed(Fault.cut(99))

      assert.isFalse(stream.isComplete)
      assert.deepStrictEqual(deltasOf(protocol, stream.text), tokens.slice(0, 2))
      assert.isFalse(body.isComplete)
      assert.isAbove(body.text.length, 0)
      assert.isFalse(preamble.isComplete)
      assert.deepStrictEqual(deltasOf(protocol, preamble.text), [])
      assert.include(preamble.text, "assistant")
      assert.isFalse(late.isComplete)
      assert.deepStrictEqual(deltasOf(protocol, late.text), tokens)
      assert.notInclude(late.text, finishes[protocol])
      assert.isTrue((yield* upstream.requests).every((request) => request.abortedAt === undefined))
    })
  )

  it.live("endEarly: the response ends properly, without a finish", () =>
    Effect.gen(function* () {
      const stream = yield* streamed(Fault.endEarly(3))
      const body = yield* whole(Fault.endEarly(3))
      const late = yield* whole(Fault.endEarly(99))

      assert.isTrue(stream.isComplete)
      assert.deepStrictEqual(deltasOf(protocol, stream.text), tokens.slice(0, 3))
      assert.notInclude(stream.text, finishes[protocol])
      assert.notInclude(stream.text, terminators[protocol])
      for (const { isComplete, text } of [body, late]) {
        assert.isTrue(isComplete)
        assert.isAbove(text.length, 0)
        assert.throws(() => JSON.parse(text))
      }
    })
  )

  it.live("malformedChunk: one event is not JSON, and the stream goes on", () =>
    Effect.gen(function* () {
      const stream = yield* streamed(Fault.malformedChunk(2))
      const body = yield* whole(Fault.malformedChunk(2))
      const broken = eventsOf(stream.text).filter(({ data }) => data.startsWith("{") && !data.endsWith("}"))

      assert.strictEqual(broken.length, 1)
      assert.throws(() => JSON.parse(broken[0]?.data ?? "null"))
      assert.deepStrictEqual(deltasOf(protocol, stream.text), tokens)
      assert.include(stream.text, terminators[protocol])
      assert.isTrue(body.isComplete)
      assert.throws(() => JSON.parse(body.text))
    })
  )

  it.live("missingFinish: everything but the finish reason", () =>
    Effect.gen(function* () {
      const stream = yield* streamed(Fault.missingFinish)
      const body = yield* whole(Fault.missingFinish)
      const json = JSON.parse(body.text)

      assert.deepStrictEqual(deltasOf(protocol, stream.text), tokens)
      assert.notInclude(stream.text, finishes[protocol])
      assert.include(stream.text, terminators[protocol])
      assert.isNull(protocol === "openai" ? json.choices[0].finish_reason : json.stop_reason)
    })
  )

  it.live("missingTerminator: a finish and then the end", () =>
    Effect.gen(function* () {
      const stream = yield* streamed(Fault.missingTerminator)
      const body = yield* whole(Fault.missingTerminator)

      assert.isTrue(stream.isComplete)
      assert.include(stream.text, finishes[protocol])
      assert.notInclude(stream.text, terminators[protocol])
      assert.isTrue(body.isComplete)
      assert.isNull(body.headers.get("content-length"))
      assert.isNull(body.headers.get("transfer-encoding"))
      assert.strictEqual(contentOf(protocol, body.text), text)
    })
  )

  it.live("errorUnder200: an error where an answer should be", () =>
    Effect.gen(function* () {
      for (const ask of [whole, streamed]) {
        const standard = yield* ask(Fault.errorUnder200())
        const custom = yield* ask(Fault.errorUnder200({ error: "quota" }))

        assert.strictEqual(standard.status, 200)
        assert.strictEqual(standard.headers.get("content-type"), "application/json")
        assert.match(JSON.parse(standard.text).error.message, /overloaded/i)
        assert.deepStrictEqual(JSON.parse(custom.text), { error: "quota" })
      }
    })
  )

  it.live("errorFrame: an error event ends the stream", () =>
    Effect.gen(function* () {
      const standard = yield* streamed(Fault.errorFrame(1))
      const custom = yield* streamed(Fault.errorFrame(0, { error: { message: "Nope" } }))
      const body = yield* whole(Fault.errorFrame(1))
      const last = eventsOf(standard.text).at(-1)

      assert.isTrue(standard.isComplete)
      assert.deepStrictEqual(deltasOf(protocol, standard.text), tokens.slice(0, 1))
      assert.strictEqual(last?.event, protocol === "anthropic" ? "error" : undefined)
      assert.match(JSON.parse(last?.data ?? "").error.message, /overloaded/i)
      assert.deepStrictEqual(JSON.parse(eventsOf(custom.text).at(-1)?.data ?? ""), { error: { message: "Nope" } })
      assert.strictEqual(body.status, 200)
      assert.isDefined(JSON.parse(body.text).error)
    })
  )

  it.live("wrongContentLength: everything is sent, and still bytes are missing", () =>
    Effect.gen(function* () {
      const stream = yield* streamed(Fault.wrongContentLength())
      const body = yield* whole(Fault.wrongContentLength(10))

      assert.isFalse(stream.isComplete)
      assert.include(stream.text, terminators[protocol])
      assert.isFalse(body.isComplete)
      assert.strictEqual(contentOf(protocol, body.text), text)
      assert.strictEqual(body.headers.get("content-length"), String(Buffer.byteLength(body.text) + 10))
    })
  )

  it.live("trickle: the answer is complete but comes in slices anywhere", () =>
    Effect.gen(function* () {
      const stream = yield* streamed(Fault.trickle(3))
      const body = yield* whole(Fault.trickle(1))
      const slow = yield* elapsed(whole(Fault.trickle(100, "5 millis")))
      const decodesAlone = (bytes: Uint8Array) => !new TextDecoder().decode(bytes).includes("\ufffd")

      assert.deepStrictEqual(deltasOf(protocol, stream.text), tokens)
      assert.isTrue(stream.chunks.some((chunk) => !decodesAlone(chunk)))
      assert.isAbove(stream.chunks.length, 20)
      assert.strictEqual(contentOf(protocol, body.text), text)
      assert.strictEqual(contentOf(protocol, slow.value.text), text)
      assert.isAtLeast(slow.millis, 10)
    })
  )

  it.live("empty: a success with nothing in it", () =>
    Effect.gen(function* () {
      const stream = yield* streamed(Fault.empty)
      const body = yield* whole(Fault.empty)

      assert.deepInclude(stream, { status: 200, text: "", isComplete: true })
      assert.match(stream.headers.get("content-type") ?? "", /^text\/event-stream/)
      assert.deepInclude(body, { status: 200, text: "", isComplete: true })
    })
  )

  it.live("notJson: a page instead of an answer", () =>
    Effect.gen(function* () {
      for (const ask of [whole, streamed]) {
        const page = yield* ask(Fault.notJson())

        assert.strictEqual(page.status, 200)
        assert.match(page.headers.get("content-type") ?? "", /^text\/html/)
        assert.match(page.text, /^<!doctype html>/)
      }
    })
  )

  it.live("sees a client leave in the middle of a slow stream", () =>
    Effect.gen(function* () {
      const upstream = yield* Upstream.make({ answer: text, tokenEvery: "30 millis" })
      const controller = new AbortController()

      const response = yield* ask(upstream, { protocol, stream: true, signal: controller.signal })
      yield* readUntil(response, (body) => deltasOf(protocol, body).length > 0)
      const { millis } = yield* elapsed(
        Effect.andThen(
          Effect.sync(() => controller.abort()),
          upstream.awaitAborted(1)
        )
      )
      const [request] = yield* upstream.requests

      assert.isBelow(millis, 100)
      assert.isDefined(request?.abortedAt)
      assert.isUndefined(request?.answeredAt)
    })
  )
})

describe("Upstream's connections", () => {
  const connect = (port: number) =>
    Effect.callback<string>((resume) => {
      const socket = Net.connect(port, "127.0.0.1")
      socket.on("connect", () => {
        socket.destroy()
        resume(Effect.succeed("connected"))
      })
      socket.on("error", (error: NodeJS.ErrnoException) => resume(Effect.succeed(error.code ?? "")))
    })

  const turn = Effect.callback<void>((resume) => {
    setImmediate(() => resume(Effect.void))
  })
  const resources = ["TCPServerWrap", "TCPSocketWrap", "Timeout"] as const
  const handles = () => {
    const count = (name: string) => process.getActiveResourcesInfo().filter((resource) => resource === name).length
    return {
      TCPServerWrap: count("TCPServerWrap"),
      TCPSocketWrap: count("TCPSocketWrap"),
      Timeout: count("Timeout")
    }
  }

  // Not fetch, whose client keeps timers and connects again on its own.
  const rawStream = (upstream: Upstream.Upstream) =>
    Http.request(`${upstream.baseUrl}/messages`, {
      method: "POST",
      agent: false,
      headers: { "anthropic-version": "2023-06-01" }
    })
      .on("error", () => {})
      .on("response", (response) => response.on("error", () => {}).resume())
      .end(JSON.stringify({ model: "m", max_tokens: 9, stream: true, messages: [{ role: "user", content: "Hi" }] }))
  // The test runner has timers of its own that come and go; one of ours would stay for an hour.
  const settled = (before: ReturnType<typeof handles>) =>
    Effect.repeat(Effect.sync(handles), {
      until: (now) => resources.every((name) => now[name] <= before[name]),
      schedule: Schedule.spaced("5 millis"),
      times: 200
    })

  it.live("refuses connections while down and answers on the same port once up", () =>
    Effect.gen(function* () {
      const upstream = yield* Upstream.make()

      yield* upstream.down
      yield* upstream.down
      const during = yield* Effect.flip(ask(upstream, { protocol: "openai" }))
      yield* upstream.up
      yield* upstream.up
      const after = yield* askAll(upstream, { protocol: "openai" })

      assert.strictEqual(causeCode(during), "ECONNREFUSED")
      assert.strictEqual(after.status, 200)
    })
  )

  it.live("cuts open streams when it goes down, without blaming the client", () =>
    Effect.gen(function* () {
      const upstream = yield* Upstream.make({ answer: text, fault: Fault.stall(1) })

      const response = yield* ask(upstream, { protocol: "openai", stream: true })
      const fiber = yield* Effect.forkChild(readAll(response))
      yield* upstream.down
      const body = yield* Fiber.join(fiber)
      const [request] = yield* upstream.requests

      assert.isFalse(body.isComplete)
      assert.strictEqual(yield* upstream.openConnections, 0)
      assert.isUndefined(request?.abortedAt)
      assert.isUndefined(request?.answeredAt)
    })
  )

  it.live("counts the connections that are open", () =>
    Effect.gen(function* () {
      const upstream = yield* Upstream.make({ fault: Fault.silence })
      const before = yield* upstream.openConnections

      const clients = [1, 2, 3].map(() => rawStream(upstream))
      yield* upstream.awaitRequests(3)
      const during = yield* upstream.openConnections
      for (const client of clients) client.destroy()
      yield* upstream.awaitAborted(3)

      assert.strictEqual(before, 0)
      assert.strictEqual(during, 3)
      assert.strictEqual(yield* upstream.openConnections, 0)
    })
  )

  it.live("drops the rest of an answer when its client leaves", () =>
    Effect.gen(function* () {
      const upstream = yield* Upstream.make({ answer: text, tokenEvery: "1 hour" })
      yield* Effect.repeat(turn, { times: 5 })
      const before = handles()

      const clients = Array.from({ length: 10 }, () => rawStream(upstream))
      yield* upstream.awaitRequests(10)
      for (const client of clients) client.destroy()
      yield* upstream.awaitAborted(10)
      const after = yield* settled(before)

      for (const name of resources) assert.isAtMost(after[name], before[name], name)
    })
  )

  it.live("records a client that leaves while it still sends its request", () =>
    Effect.gen(function* () {
      const upstream = yield* Upstream.make()

      yield* Effect.callback<void>((resume) => {
        const request = Http.request(`${upstream.baseUrl}/chat/completions`, {
          method: "POST",
          headers: { "content-length": "100" }
        })
        request.on("error", () => resume(Effect.void))
        request.write(`{"model":`, () => setImmediate(() => request.destroy()))
      })
      yield* upstream.awaitAborted(1)
      const [request] = yield* upstream.requests

      assert.isDefined(request?.abortedAt)
      assert.isUndefined(request?.body)
    })
  )

  it.live("leaves no server, socket or timer behind when its scope closes", () =>
    Effect.gen(function* () {
      // Handles of earlier tests take a turn or two of the event loop to go.
      yield* Effect.repeat(turn, { times: 5 })
      const before = handles()
      const { stop, upstream } = yield* startIn({
        answer: text,
        tokenEvery: "1 hour",
        fault: (index) => [Fault.silence, Fault.stall(1), Fault.trickle(1, "1 hour"), undefined][index]
      })
      const idle = Net.connect(upstream.port, "127.0.0.1")
      const ended = yield* Deferred.make<void>()
      idle.on("close", () => Deferred.doneUnsafe(ended, Effect.void))

      yield* Effect.forEach([0, 1, 2, 3], (index) =>
        Effect.andThen(
          Effect.sync(() => rawStream(upstream)),
          upstream.awaitRequests(index + 1)
        )
      )
      const during = yield* upstream.openConnections
      const { millis } = yield* elapsed(stop)
      yield* Deferred.await(ended)
      const after = yield* settled(before)

      assert.strictEqual(during, 5)
      assert.isBelow(millis, 500)
      assert.strictEqual(yield* upstream.openConnections, 0)
      for (const name of resources) assert.isAtMost(after[name], before[name], name)
      assert.strictEqual(yield* connect(upstream.port), "ECONNREFUSED")
    })
  )
})
