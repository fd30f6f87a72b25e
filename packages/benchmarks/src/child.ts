/**
 * The process of one system: loads its client code, makes the calls it is ordered to make, and reports how each ended.
 */
import type { Client, Limits, MakeClient } from "./Client.ts"
import { canned } from "./Canned.ts"
import type { Spent } from "./Cost.ts"
import type { Order, Outcome, Report, Spending } from "./Systems.ts"

if (process.argv[3] === "canned") globalThis.fetch = canned

// The module is named by the parent; all of them export `make`.
const { make } = (await import(process.argv[2] ?? "")) as { readonly make: MakeClient }

const send = (report: Report): void => {
  if (process.connected) process.send?.(report)
}

// Without a parent there is nobody to report to.
process.on("disconnect", () => process.exit())

const complain = (error: unknown): void => send({ _tag: "Unhandled", message: described(error) })
process.on("unhandledRejection", complain)
process.on("uncaughtException", complain)

process.on("message", ({ id, order }: { readonly id: number; readonly order: Order | Spending }) => {
  if (order._tag === "Spend") return void spend(order).then((spent) => send({ id, _tag: "Spent", spent }))
  const orders = order._tag === "Ask" ? asks(order) : load(order)
  void orders.then((outcomes) => send({ id, _tag: "Outcomes", outcomes }))
})

const question = "What is a circuit breaker?"

/** One client for all orders: what it keeps is a part of what it costs. */
const spend = async (order: Spending): Promise<Spent> => {
  measured ??= await make(nobody, { attemptMillis: 30_000, idleMillis: 15_000, deadlineMillis: 45_000 })
  const collected = order.collect === true ? settled : young
  const { heapUsed: occupied } = await collected()
  const cpu = process.cpuUsage()
  const begin = performance.now()
  for (let call = 1; call <= order.calls; call++) {
    const { signal } = new AbortController()
    // oxlint-disable-next-line no-await-in-loop -- one call after another is what is measured
    const answer = await (order.stream ? measured.stream(question, signal, () => {}) : measured.ask(question, signal))
    if (answer.text.length < 20) throw new Error("the canned answer was not understood")
    // Over a wire the event loop turns with each call. What waits for that, timers and weak references, shall not pile up.
    // oxlint-disable-next-line no-await-in-loop
    if (call % 100 === 0) await turn()
  }
  const wallMicros = ((performance.now() - begin) * 1000) / order.calls
  const { system, user } = process.cpuUsage(cpu)
  const bytes = (process.memoryUsage().heapUsed - occupied) / order.calls
  const { heapUsed: heapBytes, rss: residentBytes } = await collected()
  return {
    cpuMicros: (system + user) / order.calls,
    wallMicros,
    bytes,
    retainedBytes: heapBytes - occupied,
    heapBytes,
    residentBytes
  }
}

const turn = () => new Promise<void>((resolve) => setImmediate(resolve))

const young = async (): Promise<NodeJS.MemoryUsage> => {
  globalThis.gc?.({ type: "minor" })
  return process.memoryUsage()
}

/** Finalizers and weak references take a turn of the event loop between collections. */
const settled = async (): Promise<NodeJS.MemoryUsage> => {
  for (let pass = 0; pass < 4; pass++) {
    globalThis.gc?.({ type: "major" })
    // oxlint-disable-next-line no-await-in-loop
    await turn()
  }
  return process.memoryUsage()
}

let measured: Client | undefined
const nobody = { primary: "http://127.0.0.1:9/v1", backup: "http://127.0.0.1:9/v1" }

const asks = async (order: Extract<Order, { readonly _tag: "Ask" }>): Promise<ReadonlyArray<Outcome>> => {
  const client = await make(order.upstreams, order.limits)
  const begin = performance.now()
  const outcomes: Array<Outcome> = []
  for (let asked = 0; asked < order.times; asked++) {
    // oxlint-disable-next-line no-await-in-loop -- as one user asks
    outcomes.push(await call(client, order, begin, order.stream))
  }
  return outcomes
}

/** Calls that start on time, whether or not those before have ended: an open loop, as users are. */
const load = async (order: Extract<Order, { readonly _tag: "Load" }>): Promise<ReadonlyArray<Outcome>> => {
  const client = await make(order.upstreams, order.limits)
  const begin = performance.now()
  const total = order.perSecond * order.seconds
  const running: Array<Promise<Outcome>> = []
  await new Promise<void>((resolve) => {
    const tick = setInterval(() => {
      const due = Math.min(total, ((performance.now() - begin) / 1000) * order.perSecond)
      while (running.length < due) running.push(call(client, order, begin, false))
      if (running.length < total) return
      clearInterval(tick)
      resolve()
    }, 5)
  })
  return Promise.all(running)
}

const call = async (
  client: Client,
  order: { readonly limits: Limits; readonly leaveAfterMillis?: number | undefined; readonly patienceMillis: number },
  begin: number,
  stream: boolean
): Promise<Outcome> => {
  const startedAt = performance.now() - begin
  const elapsed = () => performance.now() - begin - startedAt
  const leaving = new AbortController()
  const leave =
    order.leaveAfterMillis === undefined ? undefined : setTimeout(() => leaving.abort(), order.leaveAfterMillis)
  // A system with a deadline of its own gets to end the call first.
  const signal = AbortSignal.any([leaving.signal, AbortSignal.timeout(order.limits.deadlineMillis + 250)])
  const answer = stream ? client.stream(question, signal, () => {}) : client.ask(question, signal)
  let patience: NodeJS.Timeout | undefined
  const hung = new Promise<Outcome>((resolve) => {
    patience = setTimeout(() => resolve({ _tag: "Hung", startedAt, millis: elapsed() }), order.patienceMillis)
  })
  const ended = answer.then(
    ({ finishReason, text }): Outcome => ({ _tag: "Success", startedAt, millis: elapsed(), text, finishReason }),
    (error: unknown): Outcome => ({ _tag: "Failure", startedAt, millis: elapsed(), error: described(error) })
  )
  const outcome = await Promise.race([ended, hung])
  clearTimeout(patience)
  clearTimeout(leave)
  return outcome
}

const described = (error: unknown): string =>
  error instanceof Error ? `${error.name}: ${error.message}`.slice(0, 300) : `not an Error: ${String(error)}`

send({ _tag: "Ready" })
