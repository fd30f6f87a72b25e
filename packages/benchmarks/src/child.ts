/**
 * The process of one system: loads its client code, makes the calls it is ordered to make, and reports how each ended.
 */
import type { Client, Limits, MakeClient } from "./Client.ts"
import type { Order, Outcome, Report } from "./Systems.ts"

// The module is named by the parent; all of them export `make`.
const { make } = (await import(process.argv[2] ?? "")) as { readonly make: MakeClient }

const send = (report: Report): void => {
  process.send?.(report)
}

const complain = (error: unknown): void => send({ _tag: "Unhandled", message: described(error) })
process.on("unhandledRejection", complain)
process.on("uncaughtException", complain)

process.on("message", ({ id, order }: { readonly id: number; readonly order: Order }) => {
  const orders = order._tag === "Ask" ? asks(order) : load(order)
  void orders.then((outcomes) => send({ id, _tag: "Outcomes", outcomes }))
})

const question = "What is a circuit breaker?"

const asks = async (order: Extract<Order, { readonly _tag: "Ask" }>): Promise<ReadonlyArray<Outcome>> => {
  const client = await make(order.upstreams, order.limits)
  const begin = performance.now()
  const outcomes: Array<Outcome> = []
  for (let asked = 0; asked < order.times; asked++) outcomes.push(await call(client, order, begin, order.stream))
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
