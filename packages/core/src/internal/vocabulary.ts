import * as English from "./english.ts"

/** The closed lists that the words of a whole text are searched for, a bit each. */
export const list = { english: 1, foreign: 2, filler: 4, counting: 8, cased: 16, mention: 32 } as const

const members: ReadonlyArray<readonly [number, Iterable<string>]> = [
  [list.english, English.english],
  [list.foreign, English.foreign],
  [list.filler, English.fillers],
  [list.counting, English.counting],
  [list.cased, English.cased],
  [list.mention, English.mentions]
]

const lists = new Map<string, number>()
for (const [bit, words] of members) for (const word of words) lists.set(word, (lists.get(word) ?? 0) | bit)

/** The lists that hold a word. */
export const listsOf = (word: string): number => lists.get(word) ?? 0

/** Every word that a list holds. */
export const listed: Iterable<string> = lists.keys()

/**
 * Says of most words, at a fraction of the cost of looking them up, that they are not in a list: by their length, first and last letter.
 */
export const sieve = (words: Iterable<string>): ((word: string) => boolean) => {
  const marks = new Uint8Array(32 * 32 * 16)
  const place = (word: string) =>
    ((word.charCodeAt(0) & 31) << 9) | ((word.charCodeAt(word.length - 1) & 31) << 4) | (word.length & 15)
  for (const word of words) marks[place(word)] = 1
  return (word) => marks[place(word)] === 1
}

/** The hash of a word whose hash before its last letter is known; that of no letters is 0. */
export const hashed = (hash: number, letter: number): number => (Math.imul(hash, 31) + letter) | 0

/**
 * Values by words of small letters, found in the middle of a text by the hash of the word: most words of a text are in a list, and need
 * neither be cut out nor hashed again. The first letter may be large in the text.
 */
export const lexicon = <A>(values: ReadonlyMap<string, A>) => {
  const words = Array.from(values.keys()).filter((word) => /^[a-z]+$/.test(word))
  const entries = words.map((word) => ({ word, value: values.get(word) }))
  const mask = 2 ** Math.ceil(Math.log2(words.length * 4)) - 1
  const slots = new Int16Array(mask + 1)
  const slotOf = (hash: number) => (hash ^ (hash >>> 13)) & mask
  words.forEach((word, at) => {
    let hash = 0
    for (let i = 0; i < word.length; i++) hash = hashed(hash, word.charCodeAt(i))
    let slot = slotOf(hash)
    while (slots[slot] !== 0) slot = (slot + 1) & mask
    slots[slot] = at + 1
  })
  return (text: string, from: number, to: number, hash: number): A | undefined => {
    for (let slot = slotOf(hash); ; slot = (slot + 1) & mask) {
      const at = slots[slot]
      if (at === undefined || at === 0) return undefined
      const entry = entries[at - 1]
      if (entry !== undefined && isAt(text, from, to, entry.word)) return entry.value
    }
  }
}

const isAt = (text: string, from: number, to: number, word: string): boolean => {
  if (word.length !== to - from || (text.charCodeAt(from) | 32) !== word.charCodeAt(0)) return false
  for (let i = 1; i < word.length; i++) if (text.charCodeAt(from + i) !== word.charCodeAt(i)) return false
  return true
}
