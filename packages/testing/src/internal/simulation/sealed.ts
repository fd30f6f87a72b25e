import type { Dice } from "../dice.ts"

/**
 * Runs a function with everything taken away that would make two runs differ: the clocks, the timers and the random numbers of the
 * host. What reaches for one of them throws, and the simulation reports it. Only secrets, such as the numbers of tickets, have no other
 * source; they are drawn from `numbers`. The function is synchronous, so nobody else notices.
 *
 * Stack traces are off as well: they cost six times the rest of an error, and a simulation makes errors by the million.
 */
export const sealed = <A>(numbers: Dice, body: () => A): A => {
  const host = globalThis as unknown as Record<string, unknown>
  const draw = (bytes: Uint8Array): Uint8Array => {
    for (let at = 0; at < bytes.length; at++) bytes[at] = numbers.int(0, 255)
    return bytes
  }
  const taken = [
    ...["setTimeout", "setInterval", "setImmediate", "queueMicrotask", "fetch"].map((name) => [host, name] as const),
    [Math as unknown as Record<string, unknown>, "random"] as const,
    [Date as unknown as Record<string, unknown>, "now"] as const,
    [performance as unknown as Record<string, unknown>, "now"] as const,
    [crypto as unknown as Record<string, unknown>, "randomUUID"] as const,
    [crypto as unknown as Record<string, unknown>, "getRandomValues"] as const
  ]
  const kept = taken.map(([owner, name]) => Object.getOwnPropertyDescriptor(owner, name))
  const stackTraceLimit = Error.stackTraceLimit
  for (const [owner, name] of taken) {
    const refuse = () => {
      throw new Error(`Simulation: ${name} was called, which is not the same in every run`)
    }
    Object.defineProperty(owner, name, {
      value: name === "getRandomValues" ? draw : refuse,
      configurable: true,
      writable: true
    })
  }
  Error.stackTraceLimit = 0
  try {
    return body()
  } finally {
    Error.stackTraceLimit = stackTraceLimit
    for (const [index, [owner, name]] of taken.entries()) {
      const before = kept[index]
      if (before === undefined) delete owner[name]
      else Object.defineProperty(owner, name, before)
    }
  }
}
