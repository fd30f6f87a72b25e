/**
 * A real HTTP server on the loopback interface that speaks the protocols of OpenAI, Anthropic, Amazon Bedrock and Google, and misbehaves
 * on command.
 *
 * It exists to test what no fake provider can: the adapter, the HTTP client and the sockets below. The end of the path decides who
 * answers: `/chat/completions` and `/responses` as OpenAI does, `/messages` as Anthropic, `/model/ID/converse` and `/converse-stream` as
 * Bedrock, `/models/ID:generateContent` and `:streamGenerateContent` as Gemini; whole or streamed as the request asks. {@link Fault}
 * says what goes wrong, {@link Answer} what is said when nothing does.
 *
 * Sockets live in real time, so the server does too: under a `TestClock` its delays still pass by themselves. For tests on a virtual
 * clock use {@link ScriptedProvider}.
 *
 * Requests are checked as the real servers check them (shape of the body, `anthropic-version`, the key if one is set) and refused
 * with their errors. It does not check what a model would: models exist whatever their name, and prompts are never too long.
 *
 * **Example** (Asking a server that is overloaded once)
 *
 * ```ts import.meta.vitest
 * import { Effect } from "effect"
 * import { Fault, Upstream } from "@llm-resilience/testing"
 *
 * const program = Effect.scoped(
 *   Effect.gen(function*() {
 *     const upstream = yield* Upstream.make({ answer: (question) => `You said: ${question.text}` })
 *     yield* upstream.setFault((index) => (index === 0 ? Fault.status(503) : undefined))
 *     const ask = Effect.promise(() =>
 *       fetch(`${upstream.baseUrl}/chat/completions`, {
 *         method: "POST",
 *         body: JSON.stringify({ model: "gpt-5", messages: [{ role: "user", content: "Hi" }] })
 *       }).then((response) => response.status)
 *     )
 *     return [yield* ask, yield* ask]
 *   })
 * )
 *
 * await Effect.runPromise(program) // => [503, 200]
 * ```
 *
 * @since 0.1.0
 */
import * as Clock from "effect/Clock"
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as FiberSet from "effect/FiberSet"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as Result from "effect/Result"
import * as Schedule from "effect/Schedule"
import * as Schema from "effect/Schema"
import type * as Scope from "effect/Scope"
import * as Semaphore from "effect/Semaphore"
import * as Http from "node:http"
import type { Socket } from "node:net"
import type { Answer, Question } from "./Answer.ts"
import type { Fault, Headers } from "./Fault.ts"
import { anthropicWire } from "./internal/anthropicWire.ts"
import { bedrockWire } from "./internal/bedrockWire.ts"
import { geminiWire } from "./internal/geminiWire.ts"
import { openaiWire } from "./internal/openaiWire.ts"
import * as Playback from "./internal/playback.ts"
import { countParts, exchange } from "./internal/wire.ts"
import { responsesWire } from "./internal/responsesWire.ts"
import { makeWaiting } from "./internal/waiting.ts"
import type { Asked, Wire } from "./internal/wire.ts"

/**
 * A running server and the levers to make it misbehave.
 *
 * **Details**
 *
 * `url` is the origin, `baseUrl` is what adapters are configured with (`http://127.0.0.1:PORT/v1`).
 *
 * `setFault` takes one fault for every request, `undefined` for none, or a function of the index of the request, counted from 0 since
 * the fault was set. A change applies to requests that arrive after it.
 *
 * `requests` are the requests received, oldest first. `awaitRequests` waits until that many were received since the server was made,
 * `awaitAborted` until that many clients left before their answer was complete.
 *
 * `down` ends every connection and refuses new ones; `up` listens on the same port again. Both may be repeated.
 *
 * @category models
 * @since 0.1.0
 */
export interface Upstream {
  readonly url: string
  readonly baseUrl: string
  readonly port: number
  readonly setFault: (fault: Fault | undefined | ((index: number) => Fault | undefined)) => Effect.Effect<void>
  readonly setAnswer: (answer: Answer) => Effect.Effect<void>
  readonly requests: Effect.Effect<ReadonlyArray<Recorded>>
  readonly openConnections: Effect.Effect<number>
  readonly awaitRequests: (count: number) => Effect.Effect<void>
  readonly awaitAborted: (count: number) => Effect.Effect<void>
  readonly down: Effect.Effect<void>
  readonly up: Effect.Effect<void>
}

/**
 * A request as it was received.
 *
 * **Details**
 *
 * Times are milliseconds of the real clock. `body` is the decoded JSON, `undefined` when it was none. `answeredAt` is when the last
 * byte was handed to the connection, `abortedAt` when the client went away before that. A request that the server itself cut or
 * still has open has neither.
 *
 * @category models
 * @since 0.1.0
 */
export interface Recorded {
  readonly index: number
  readonly method: string
  readonly path: string
  readonly headers: Http.IncomingHttpHeaders
  readonly body: unknown
  readonly receivedAt: number
  readonly answeredAt?: number | undefined
  readonly abortedAt?: number | undefined
}

/**
 * What a server can be made with.
 *
 * **Details**
 *
 * `answer` defaults to `"Hello, world!"`. `tokenEvery` is the time between two tokens of a stream; a whole answer takes as long as its
 * stream would. It defaults to zero. With `apiKey` requests need it, as a bearer token or in the protocol's own header. `headers` are added to every
 * answer. `maxRequests` bounds what `requests` remembers (10 000; older ones are dropped), `maxBodyBytes` the body of a request
 * (4 MiB; a longer one is answered 413).
 *
 * @category models
 * @since 0.1.0
 */
export interface Options {
  readonly answer?: Answer | undefined
  readonly fault?: Fault | ((index: number) => Fault | undefined) | undefined
  readonly tokenEvery?: Duration.Input | undefined
  readonly apiKey?: string | undefined
  readonly headers?: Headers | undefined
  readonly maxRequests?: number | undefined
  readonly maxBodyBytes?: number | undefined
}

/**
 * Service tag of {@link Upstream}, for tests that share one server through a layer.
 *
 * @category services
 * @since 0.1.0
 */
export const Upstream: Context.Service<Upstream, Upstream> = Context.Service("@llm-resilience/testing/Upstream")

/**
 * Starts a server on a free port of 127.0.0.1. It stops with the scope, and every connection with it.
 *
 * @category constructors
 * @since 0.1.0
 */
export const make = (options?: Options): Effect.Effect<Upstream, never, Scope.Scope> => {
  const maxRequests = options?.maxRequests ?? 10_000
  if (!Number.isInteger(maxRequests) || maxRequests < 1) {
    throw new RangeError(`Upstream.make: maxRequests must be an integer >= 1, got ${maxRequests}`)
  }
  const maxBodyBytes = options?.maxBodyBytes ?? 4 * 1024 * 1024
  if (!Number.isInteger(maxBodyBytes) || maxBodyBytes < 1) {
    throw new RangeError(`Upstream.make: maxBodyBytes must be an integer >= 1, got ${maxBodyBytes}`)
  }
  return Effect.provideService(
    start({
      answer: options?.answer ?? "Hello, world!",
      fault: options?.fault,
      tokenEvery: Duration.fromInputUnsafe(options?.tokenEvery ?? 0),
      apiKey: options?.apiKey,
      headers: options?.headers ?? {},
      maxRequests,
      maxBodyBytes
    }),
    Clock.Clock,
    realClock
  )
}

// The sockets do not wait for a TestClock, so neither does the server.
const realClock = Clock.Clock.defaultValue()

interface Settings {
  readonly answer: Answer
  readonly fault: Options["fault"]
  readonly tokenEvery: Duration.Duration
  readonly apiKey: string | undefined
  readonly headers: Headers
  readonly maxRequests: number
  readonly maxBodyBytes: number
}

const start = Effect.fnUntraced(function* (settings: Settings) {
  let answer = settings.answer
  let faultFor = perRequest(settings.fault)
  let faultSince = 0
  let arrived = 0
  const journal = makeJournal(settings.maxRequests)
  const run = yield* FiberSet.makeRuntime<never, void, never>()

  const sockets = new Set<Socket>()
  const serve = (incoming: Http.IncomingMessage, outgoing: Http.ServerResponse): void => {
    const index = arrived++
    // What is set later is for later requests, even if this one's body takes its time.
    const spoken = answer
    const findFault = faultFor
    const indexSince = index - faultSince
    const receivedAt = realClock.currentTimeMillisUnsafe()
    const entry = journal.open({
      index,
      method: incoming.method ?? "",
      path: incoming.url ?? "",
      headers: incoming.headers,
      body: undefined,
      receivedAt
    })
    const respond = Effect.flatMap(readBody(incoming, settings.maxBodyBytes), (bytes) =>
      Effect.suspend(() => {
        const body = bytes === undefined ? Option.none() : decodeJson(bytes.toString("utf8"))
        journal.received(entry, Option.getOrUndefined(body))
        const fault = findFault(indexSince)
        const response = respondTo({ settings, answer: spoken, incoming, index, body, bytes, fault, receivedAt })
        return play(Playback.playback(response, fault), outgoing, () => journal.settled(entry))
      })
    ).pipe(
      // An answer or a fault of the test that throws: say so where the test will look, instead of hanging.
      Effect.catchDefect((defect) =>
        Effect.sync(() => {
          if (!outgoing.headersSent) outgoing.writeHead(500, { "content-type": "text/plain; charset=utf-8" })
          outgoing.end(`Upstream: the test's own answer or fault threw: ${String(defect)}`)
        })
      )
    )
    // Writing to a connection that the client has closed is nobody's error: the close event says what happened.
    outgoing.on("error", () => {})
    const fiber = run(Effect.provideService(respond, Clock.Clock, realClock))
    outgoing.on("close", () => {
      fiber.interruptUnsafe()
      journal.closed(entry, outgoing.writableFinished)
    })
  }

  const server = Http.createServer({ requestTimeout: 0, headersTimeout: 0, keepAliveTimeout: 0 }, serve)
  server.on("connection", (socket: Socket) => {
    socket.setNoDelay(true)
    sockets.add(socket)
    socket.on("close", () => sockets.delete(socket))
  })
  const close = Effect.callback<void>((resume) => {
    if (!server.listening) return resume(Effect.void)
    journal.settleAll()
    server.close(() => resume(Effect.void))
    for (const socket of sockets) socket.destroy()
  })
  const port = yield* Effect.acquireRelease(Effect.orDie(listen(server, 0)), () => close)
  const lifecycle = yield* Semaphore.make(1)
  const url = `http://127.0.0.1:${port}`

  return {
    url,
    baseUrl: `${url}/v1`,
    port,
    setFault: (next) =>
      Effect.sync(() => {
        faultFor = perRequest(next)
        faultSince = arrived
      }),
    setAnswer: (next) =>
      Effect.sync(() => {
        answer = next
      }),
    requests: Effect.sync(journal.requests),
    openConnections: Effect.sync(() => sockets.size),
    awaitRequests: (count) => journal.awaited(() => journal.counts().received >= count),
    awaitAborted: (count) => journal.awaited(() => journal.counts().aborted >= count),
    down: lifecycle.withPermits(1)(close),
    up: lifecycle.withPermits(1)(
      Effect.suspend(() => (server.listening ? Effect.void : reopen(listen(server, port)))).pipe(
        Effect.provideService(Clock.Clock, realClock)
      )
    )
  } satisfies Upstream
})

const perRequest = (fault: Options["fault"]): ((index: number) => Fault | undefined) =>
  typeof fault === "function" ? fault : () => fault

const listen = (server: Http.Server, port: number): Effect.Effect<number, Error> =>
  Effect.callback((resume) => {
    const failed = (error: Error) => resume(Effect.fail(error))
    server.once("error", failed)
    server.listen(port, "127.0.0.1", () => {
      server.off("error", failed)
      const address = server.address()
      resume(Effect.succeed(typeof address === "object" && address !== null ? address.port : port))
    })
  })

// While the port was free, a client of another test may have been given it for a moment.
const reopen = (listening: Effect.Effect<number, Error>): Effect.Effect<void> =>
  Effect.orDie(Effect.asVoid(Effect.retry(listening, { schedule: Schedule.spaced("50 millis"), times: 40 })))

const decodeJson = Schema.decodeUnknownOption(Schema.fromJsonString(Schema.Json))

/** Reads the whole body, or gives `undefined` once it is longer than the bound. */
const readBody = (incoming: Http.IncomingMessage, maxBytes: number): Effect.Effect<Buffer | undefined> =>
  Effect.callback((resume) => {
    const chunks: Array<Buffer> = []
    let size = 0
    incoming.on("data", (chunk: Buffer) => {
      size += chunk.length
      if (size <= maxBytes) chunks.push(chunk)
    })
    // The rest of a body that is too long is read and dropped, so that the client gets to see the answer.
    incoming.on("end", () => resume(Effect.succeed(size > maxBytes ? undefined : Buffer.concat(chunks))))
  })

const respondTo = (options: {
  readonly settings: Settings
  readonly answer: Answer
  readonly incoming: Http.IncomingMessage
  readonly index: number
  readonly body: Option.Option<Schema.Json>
  readonly bytes: Buffer | undefined
  readonly fault: Fault | undefined
  readonly receivedAt: number
}): Playback.Response => {
  const { incoming, index, receivedAt, settings } = options
  const header = (name: string): string | undefined => {
    const value = incoming.headers[name]
    return Array.isArray(value) ? value.join(", ") : value
  }
  const path = (incoming.url ?? "").replace(/[?#].*$/, "")
  const known = wires.find((wire) => wire.path.test(path))
  const wire = known ?? openaiWire
  const serial = index + 1
  const common = {
    headers: { ...wire.headers(serial, receivedAt), ...settings.headers },
    tokenEvery: settings.tokenEvery,
    malformed: wire.malformed,
    errorFrame: wire.errorFrame,
    contentType: wire.contentType,
    error: (status: number | "overloaded") =>
      wire.error(status === "overloaded" ? wire.overloaded : status, undefined, serial)
  }
  const refused = (status: number, description?: string): Playback.Response => ({
    ...common,
    status,
    body: { _tag: "Whole", json: wire.error(status, description, serial), parts: 0 }
  })
  if (known === undefined) return refused(404, `Unknown request URL: ${path}`)
  if (incoming.method !== "POST") return refused(405, `Not allowed to ${incoming.method} on ${path}`)
  if (settings.apiKey !== undefined && credential(wire, header) !== settings.apiKey) return refused(401)
  if (options.bytes === undefined) return refused(413)
  const asked = Option.match(options.body, {
    onNone: () => Result.fail("We could not parse the JSON body of your request."),
    onSome: (body) => wire.decode({ body, path, header })
  })
  if (Result.isFailure(asked)) return refused(400, asked.failure)
  return { ...common, status: 200, body: bodyOf(wire, asked.success, options) }
}

const wires: ReadonlyArray<Wire> = [openaiWire, responsesWire, anthropicWire, bedrockWire, geminiWire]

const credential = (wire: Wire, header: (name: string) => string | undefined): string | undefined =>
  (wire.keyHeader === undefined ? undefined : header(wire.keyHeader)) ??
  header("authorization")?.replace(/^Bearer /i, "")

const bodyOf = (
  wire: Wire,
  asked: Asked,
  options: {
    readonly answer: Answer
    readonly index: number
    readonly receivedAt: number
    readonly fault: Fault | undefined
  }
): Playback.Response["body"] => {
  const question: Question = { ...asked.question, index: options.index }
  const spoken = exchange({
    asked,
    reply: typeof options.answer === "function" ? options.answer(question) : options.answer,
    serial: options.index + 1,
    nowMillis: options.receivedAt,
    withoutFinish: options.fault?._tag === "MissingFinish"
  })
  const frames = wire.frames(spoken)
  return question.stream
    ? { _tag: "Stream", frames }
    : { _tag: "Whole", json: wire.whole(spoken), parts: countParts(frames) }
}

/** Plays the actions on the connection. `settled` runs before the server itself ends it, so that this is not taken for a client's. */
const play = (
  actions: ReadonlyArray<Playback.Action>,
  outgoing: Http.ServerResponse,
  settled: () => void
): Effect.Effect<void> =>
  Effect.forEach(
    actions,
    (action): Effect.Effect<void> => {
      switch (action._tag) {
        case "Head":
          return Effect.sync(() => {
            if (action.untilClose) outgoing.useChunkedEncodingByDefault = false
            outgoing.writeHead(action.status, action.headers)
            outgoing.flushHeaders()
          })
        case "Send":
          return Effect.callback((resume) => {
            outgoing.write(action.bytes, () => resume(Effect.void))
          })
        case "Wait":
          return Effect.sleep(action.duration)
        case "Turn":
          return Effect.callback((resume) => {
            setImmediate(() => resume(Effect.void))
          })
        case "Hang":
          return Effect.never
        case "End":
          return Effect.callback((resume) => {
            outgoing.end(() => resume(Effect.void))
          })
        case "Close":
          return Effect.sync(() => {
            settled()
            outgoing.socket?.destroySoon()
          })
        case "Reset":
          return Effect.sync(() => {
            settled()
            outgoing.socket?.resetAndDestroy()
          })
      }
    },
    { discard: true }
  )

interface Entry {
  recorded: Recorded
  isListed: boolean
  isSettled: boolean
}

/** What was received and how it ended, and who waits for it. */
const makeJournal = (maxRequests: number) => {
  const entries: Array<Entry> = []
  const open = new Set<Entry>()
  const { awaited, notify } = makeWaiting()
  let received = 0
  let aborted = 0
  const list = (entry: Entry, body: unknown) => {
    entry.recorded = { ...entry.recorded, body }
    entry.isListed = true
    entries.push(entry)
    if (entries.length > maxRequests) entries.shift()
    received += 1
  }
  return {
    open: (recorded: Recorded): Entry => {
      const entry: Entry = { recorded, isListed: false, isSettled: false }
      open.add(entry)
      return entry
    },
    received: (entry: Entry, body: unknown) => {
      list(entry, body)
      notify()
    },
    settled: (entry: Entry) => {
      entry.isSettled = true
    },
    settleAll: () => {
      for (const entry of open) entry.isSettled = true
    },
    closed: (entry: Entry, isComplete: boolean) => {
      open.delete(entry)
      // The client may leave while it still sends its request.
      if (!entry.isListed) list(entry, undefined)
      const now = realClock.currentTimeMillisUnsafe()
      if (isComplete) {
        entry.recorded = { ...entry.recorded, answeredAt: now }
      } else if (!entry.isSettled) {
        entry.recorded = { ...entry.recorded, abortedAt: now }
        aborted += 1
      }
      notify()
    },
    requests: (): ReadonlyArray<Recorded> => entries.map((entry) => entry.recorded),
    counts: () => ({ received, aborted }),
    awaited
  }
}

/**
 * Layer that starts a server and provides it.
 *
 * @category layers
 * @since 0.1.0
 */
export const layer = (options?: Options): Layer.Layer<Upstream> => Layer.effect(Upstream, make(options))
