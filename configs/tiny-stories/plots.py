"""The plots of the story generator, in the template language described in stories.py.

A plot is a list of steps. `*` opens a step that every telling has and `?` one that half of them have;
`|` adds another wording of the same step; an empty line ends a paragraph. `hook` is what the hero
is, wants or fears, as words that can follow "who" or the hero's name: openings use it, and a story
whose opening has said it leaves out the first step, which says the same.
"""

GENERAL = {}   # anybody who can walk, fly or roll
MACHINE = {}   # a hero that cannot move; the friend comes in from outside


def plot(name, group, hook, text, natures=(), tables=(), heroes=("wild", "town", "house", "rover"),
         friends=()):
    """Register a plot.

    `natures` are adjectives for the hero beside the general ones, `tables` the word tables of which
    each story draws a row, `heroes` the worlds it may play in, `friends` the only kinds of friend.
    """
    group[name] = dict(name=name, hook=hook, text=text, natures=natures, tables=tables, heroes=heroes,
                       friends=friends)


plot("lost", GENERAL, "had a {color} {item}", """
* {Hero} had a {color} {item}. {He} took it everywhere.
| {He} loved {his} {color} {item} more than anything else.
| The thing {he} loved most was a {color} {item}.
? It was a present from {his} (grandmother|grandfather|best friend|aunt).
| {He} even slept with it at night.
| Every evening, {he} cleaned it until it looked like new.
* (One day|One morning|One {sky} afternoon), {he} played {at}, and when {he} came home, the {item} was gone.
| One {sky} day, {hero} {walked} {to}. Suddenly {he} noticed that the {item} was (gone|missing).
| But one day, the {item} was not in its place. {Hero} looked (everywhere|high and low), but {he} could not find it.

* "Oh no!" {he} cried. "Where is my {item}?"
| {Hero} began to cry. "I have lost my {item}," {he} said.
| {He} felt very sad. "I must find my {item}," {he} said to {himself}.
? {He} looked {hiding2}, but there was nothing there.
| {He} looked {hiding2}, but there {he} found only an old (button|sock|leaf|nail).
* Just then, {a_friend} came by. "What is wrong?" asked {friend}.
| {A_friend} heard {him} and came (closer|over). "Why are you (so sad|crying)?" {f_he} asked.
| On the way, {he} met {a_friend}. "You look sad," said {friend}. "What happened?"
* "I lost my {color} {item}," said {hero}.
| {Hero} told {f_him} about the {item}.
* "Do not worry," said {friend}. "We will look for it together."
| "I will help you," said {friend}. "Four eyes see more than two."
| "Let us think," said {friend}. "Where did you (play|have it) last?"

* They looked {at2} and {at}. They looked for a long time.
| Together they went {to2} and searched every corner.
| So they went back {to}, step by step, and looked at everything with care.
* At last, {friend} saw something {color} {hiding}. It was the {item}!
| Then {hero} saw something shine {hiding}. "There it is!" {he} shouted.
| And there, {hiding}, lay the {color} {item}.
? It was a little wet, but it was not broken.
| It was a bit dirty, but that did not matter.
* {Hero} was so happy that {he} (danced|jumped up and down|hugged {f_him}). "Thank you!" {he} said.
| "Thank you, thank you!" said {hero}. {He} gave {friend} a big hug.
* From that day on, they played with the {item} together.
| After that, {hero} always took good care of the {item}, and of {his} new friend too.
| That evening, {hero} thought, "I found my {item}, and I found a friend."
""")

plot("friend", GENERAL, "had no friends", """
* {He} had nobody to play with, and {he} was often lonely.
| {He} wished for a friend, because {he} was always alone.
| {He} liked {hobbying}, but {he} had to do it all alone.
? Every evening, {he} looked at the (stars|moon) and (sighed|made a wish).
| "It would be so nice to have a friend," {he} often said to {himself}.
| The others were always too busy to play with {him}.

* One {sky} (day|morning), {he} {walked} {to}. There {he} saw {a_friend}.
| One {sky} day, {a_friend} came {to}.
| One day, {he} heard somebody cry {at}. It was {a_friend}.
* "Hello," said {hero}. "(What are you doing here?|Do you live near here?|What a lovely day!)"
| {Hero} was shy, but {he} took a deep breath and said, "Hello."
| At first, {hero} hid (behind a tree|around the corner). Then {he} took one small step forward. "Hello," {he} (whispered|said softly).
* "Hello," said {friend}. "I am new here, and I do not know anybody."
| "Hello," said {friend}, and {f_he} smiled. "I am lonely. Would you like to play with me?"
| {Friend} looked up. "Nobody has ever said hello to me before," {f_he} said.
* "I do not have any friends either," said {hero}. "We could play together."
| {Hero} could not believe it. "I would love to play with you," {he} said.
| "Then let us be friends," said {hero}.

? {Friend} loved {hobbying}, and so did {hero}.
| "What do you like to do?" asked {hero}. "I like {hobbying}," said {friend}.
| {Hero} showed {f_him} {his} favorite place.
* They played {at} until the sun went down.
| All day long, they (laughed and played|ran and laughed) {at}.
| They shared (jokes|secrets|stories) and {hobbied} together.
| They played hide and seek, and {friend} {f_sound} with joy every time.
? When it began to rain, they sat under a big (leaf|umbrella|roof) and told stories.
| Once {friend} fell down, and {hero} helped {f_him} up.
* "Will you come back tomorrow?" asked {hero}. "Of course," said {friend}.
| Before {f_he} went home, {friend} said, "You are my best friend."
| In the evening, {friend} gave {him} {gift}. "This is for you," {f_he} said.
* From that day on, {hero} was never lonely again.
| And so two lonely hearts became two happy ones.
| That night, {hero} fell asleep with a smile. {He} had a friend at last.
""", natures=("lonely", "lonely", "lonely", "shy", "sad", "quiet"), tables=("hobby",))

plot("fear", GENERAL, "was afraid of {fear}", """
* {Hero} was afraid of {fear}.
| There was only one problem. {Hero} was afraid of {fear}.
| {He} was brave most of the time, but {he} was afraid of {fear}.
? The others laughed at {him}, and that made {him} sad.
| {He} did not tell anybody about it.
| "I wish I were brave," {he} often thought.
* One {sky} day, {he} was {at} with {a_friend}. They played and forgot the time.
| One day, {he} {walked} {to} to visit {a_friend}.
| One evening, {a_friend} asked {him} to come {to}.

* Then {moment}. {Hero} began to shake.
| But then {moment}. {Hero} did not dare to move.
| Suddenly {moment}. "Oh no," whispered {hero}, and {his} heart beat fast.
* "What is the matter?" asked {friend}. "I am afraid," said {hero} in a small voice.
| "I want to go home," said {hero}. {Friend} looked at {him}. "Are you afraid?" {f_he} asked.
| {Friend} saw that {he} was scared. "You do not have to be ashamed," {f_he} said. "Everybody is afraid of something."
? "I am afraid of (spiders|bees|ghosts|big waves)," said {friend}. "But it helps when somebody is with me."
| "Even (lions|giants|kings|knights) are afraid sometimes," said {friend}.
* "Stay close to me," said {friend}. "We will do it together."
| "Close your eyes and breathe," said {friend}. "Now open them and look around."
| "Let us count to three," said {friend}. "One, two, three!"

* {Hero} took a deep breath. {He} took one small step, and then another.
| Slowly, {hero} opened {his} eyes. {He} looked to the left, and {he} looked to the right.
| {Hero} was still afraid, but {he} did not run away.
* And then {he} saw that {truth}.
| {He} was surprised, because {truth}.
| After a while, {he} understood that {truth}.
* "It is not so bad," {he} said and (smiled|laughed).
| "I did it!" {he} shouted.
| "I am not afraid anymore," {he} said.
? {Friend} was proud of {him}.
| {Friend} {f_sound} with joy.
* From then on, {hero} was not so afraid of {fear} anymore.
| That night, {hero} slept well. {He} had learned that being brave means trying, even when you are afraid.
| Since that day, {hero} helps everybody who is afraid.
""", natures=("little", "small", "young", "shy", "timid"), tables=("fear",))

plot("share", GENERAL, "had a {holder} of {food}", """
* One day, {hero} got a {holder} of {food}. {He} was very (pleased|happy).
| One {sky} morning, {hero} found a {holder} of {food} {at}.
| {Hero} loved {food}. One day, {his} grandmother gave {him} a {holder} of {food}.
* "(All of this is mine|This is all for me)," {he} said. {He} hid the {holder} {hiding}.
| {He} sat down {at} and began to eat all alone.
| "I will not give any to anybody," {he} thought.

* Soon {a_friend} came along. "I am so hungry," said {friend}. "May I have a little?"
| Then {a_friend} came by. {F_he} had not eaten all day. "Could you share with me?" {f_he} asked.
| {A_friend} smelled the {food}. "That smells so good," said {friend}. "May I try {it}?"
* "No," said {hero}. "I want to keep {it} for myself."
| {Hero} held the {holder} tight. "There is not enough for two," {he} said.
| But {hero} shook {his} head and turned away.
* {Friend} was sad. {F_he} lowered {f_his} head and walked away.
| "I understand," said {friend} in a quiet voice, and {f_he} went away.

* {Hero} ate and ate, but it did not taste as good as before.
| But now {hero} felt a strange pain in {his} heart. {He} was not hungry anymore.
| {Hero} looked at the {food}. Eating alone was not much fun.
? {He} remembered that {friend} had once (helped|comforted) {him}.
| "What would I do if I were hungry?" {he} thought.
* So {he} picked up the {holder} and ran after {friend}. "Wait!" {he} called. "I am sorry. Let us share."
| {He} {walked} after {friend} and said, "I was wrong. Please eat with me."
| After a while, {he} went {to2} and found {friend}. "Half of this is for you," {he} said.
* {Friend} smiled. "Thank you," {f_he} said. "You are very kind."
| {Friend}'s eyes grew big with joy. "Thank you so much," {f_he} said.
* They sat down {at2} and ate the {food} together.
| They ate and laughed until the {holder} was empty.
? "Next time, I will bring something too," said {friend}.
| "It never tasted so good," said {hero}.
* {Hero} learned that everything tastes better when you share it.
| From that day on, {hero} always shared {his} food.
| That day, the {holder} was empty, but two hearts were full.
""", natures=("hungry", "greedy", "young", "little", "proud"), tables=("food",), heroes=("wild", "town"))

plot("help", GENERAL, "liked to help others", """
* {Hero} liked to help others, but everybody said that {he} was too small.
| {He} wanted to be useful, but nobody thought that {he} could help.
| "You are too small to help," the others always told {him}.
* One {sky} day, {he} was {at} when {he} heard a cry. "Help! Help!"
| One {sky} morning, {he} {walked} {to} and heard a strange sound.
| One day, somebody called for help {at}.
* It was {a_friend}. {F_his} foot was stuck between two (stones|boards|branches).
| {A_friend} had fallen into a deep hole and could not get out.
| {A_friend} was caught in a net and could not move.

* "I cannot get free," said {friend}. "Can you help me?"
| "Please help me," said {friend}. "I have been here all (night|day)."
* "I am small, but I will try," said {hero}.
| "Do not be afraid," said {hero}. "I will get you out."
| {Hero} thought hard. Then {he} had an idea.
* First {he} pulled as hard as {he} could, but nothing happened.
| {He} tried once, and {he} tried twice, but it did not work.
? "Maybe the others are right," {he} thought. But {he} did not give up.
| {He} was tired, but {he} did not stop.
* Then {he} found a long (rope|stick|branch). "Hold on to this!" {he} shouted.
| Then {he} called (the neighbors|everybody), and they all pulled together.
| So {he} used a strong (stick|branch|board) and pushed with all {his} might.

* With a loud (crack|snap|pop), {friend} was free.
| Slowly, very slowly, {friend} came out.
| One more pull, and {friend} was free at last.
* "You saved me!" said {friend}. "Thank you, {call}."
| {Friend} hugged {him}. "I will never forget this," {f_he} said.
? To say thank you, {friend} gave {him} {gift}.
| {Friend} told the story to everybody.
* From then on, nobody said that {hero} was too small.
| "You do not have to be big to help," said {hero}, and {he} smiled.
| And when anybody needed help, they knew whom to ask.
""", natures=("little", "small", "tiny", "kind", "friendly"))

plot("build", GENERAL, "wanted to build a {build}", """
* {Hero} wanted to build a {build}, because {he} wanted to {purpose}.
| {He} had a big dream. {He} wanted to {purpose}. For that, {he} needed a {build}.
| One {sky} day, {hero} had an idea. "I will build a {build}," {he} said.
* {He} found {part} and began to work.
| First, {he} collected {part}. Then {he} started to build.
* But it was not easy. On the first day, the {build} fell apart.
| {He} worked all day, but in the evening the {build} broke in two.
| The work was hard, and soon {he} was very tired.

* "I will never finish it," said {hero}. {He} sat down and (sighed|hung {his} head).
| "This is too hard for me," {he} said and kicked a stone.
* Then {a_friend} came by. "What are you making?" asked {friend}.
| {A_friend} had watched {him} all day. "May I help you?" {f_he} asked.
| "That looks like fun," said a voice. It was {a_friend}.
* "I am building a {build}, but I cannot do it alone," said {hero}.
| "It is going to be a {build}," said {hero}, "but something is always wrong."
* "Two can do more than one," said {friend}. "I will hold it, and you can tie it."
| {Friend} looked at it from all sides. "We need to make it stronger at the bottom," {f_he} said.
| "My grandfather built one like that," said {friend}. "I know how it is done."

* So they worked together. {Hero} measured, and {friend} carried.
| They worked side by side for (two|three|four) days.
| Together they tied and pushed and pulled.
? When it rained, they waited under a tree and ate some bread.
| They sang while they worked.
| Sometimes they made a mistake, and then they laughed and tried again.
* At last, the {build} was ready. It was the (best|finest|prettiest) {build} in the whole land.
| Finally, the {build} was done. They looked at it and were proud.
* "Now we can {purpose}," said {hero}. And that is what they did.
| They tried it at once, and it worked.
* "I could not have done it without you," said {hero}.
| {Hero} learned that hard work is easier with a friend.
| And if you go {to} one day, you can still see it there.
""", natures=("clever", "curious", "busy", "little", "young"), tables=("build",), heroes=("wild", "town", "rover"))

plot("journey", GENERAL, "dreamed of {goal}", """
* {Hero} dreamed of {goal}, because {reason}.
| More than anything, {he} wanted to see {goal}.
| {He} had heard a lot about {goal}, and {reason}.
* One {sky} morning, {he} packed a little bag and set off.
| "Today is the day," {he} said one morning. {He} said goodbye to {his} family and left.
| So one day, {he} took a little food and a {color} {item} and began {his} journey.

* {He} {walked} {to} and then {to2}. The way was long.
| {He} {walked} for a whole day. In the evening, {his} feet hurt.
| After a while, the path divided. {Hero} did not know which way to go.
* There {he} met {a_friend}. "Where are you going?" asked {friend}.
| {At}, {he} met {a_friend}, who looked tired. "Are you lost?" {f_he} asked.
* "I am going to {goal}," said {hero}. "Do you know the way?"
| "I want to see {goal}," said {hero}. "Would you like to come with me?"
* "I know the way," said {friend}. "I will go with you."
| "I have always wanted to go there too," said {friend}. "Let us go together."
? They shared a piece of bread, and then they walked on.
| At night, they slept under the stars and listened to the (wind|crickets|river).
| When {friend} was tired, {hero} carried {f_his} bag.

* On the next day, they came to a wide (river|valley). There was no bridge.
| Then a thick fog came, and they could not see the path.
| Soon the way was steep and full of stones.
* "We will never get there," said {friend}. "Yes, we will," said {hero}. "Just one more step."
| But {hero} did not give up. "Hold my hand," {he} said. "We can do it."
| They thought and thought. Then {hero} found a safe way around.
* And at last, they reached {goal}. {found}.
| On the (third|fourth|last) day, they arrived. {found}.
? "It is even more beautiful than in my dreams," said {hero}.
| They stood still and did not say a word for a long time.
* They stayed until evening. Then they went home with a story to tell.
| "The best part was the way," said {hero}, "because I did not walk it alone."
| When {hero} came home, everybody wanted to hear about the journey.
""", natures=("curious", "brave", "young", "little", "small"), tables=("goal",), heroes=("wild", "town", "rover"))

plot("storm", GENERAL, "loved {his} home", """
* {Hero} loved {his} home. It was small, but it was warm and dry.
| {He} had a good life there and knew every stone and every path.
* One (evening|night|afternoon), dark clouds came over the (hills|land|roofs). The wind grew stronger and stronger.
| One day, the sky turned black, and it began to rain very hard.
| One night, a big storm came. The wind (howled|roared), and the rain fell like (stones|a river).
? {Hero} closed the door and hid under a blanket.
| "What a terrible storm," said {hero}.

* Then {hero} heard a knock. Outside stood {a_friend}, wet and cold.
| Suddenly {hero} heard a small voice. It was {a_friend}, who was lost in the storm.
| Through the window, {hero} saw {a_friend} {at}. {F_he} was shaking in the cold.
* "My home is gone," said {friend}. "The wind blew it away."
| "May I come in?" asked {friend}. "I have nowhere to go."
* "Come in, come in," said {hero}. "There is room for two."
| {Hero} did not think twice. {He} opened the door and pulled {f_him} inside.
| "You can stay with me as long as you like," said {hero}.
? {He} gave {f_him} a dry blanket and some hot (soup|tea|milk).
| {He} lit a candle, and the room grew warm and bright.
* All night long, the storm shook the walls. They sat close together and told stories.
| They listened to the thunder and held each other's hands.
| "Are you afraid?" asked {friend}. "Not when you are here," said {hero}.

* In the morning, the storm was over. The sun was shining, and a rainbow stood in the sky.
| When they woke up, the sky was blue and the birds were singing.
* They went outside. Many branches had fallen, and {friend}'s home was broken.
| Outside, everything was wet, and there was mud everywhere.
* "I will help you to build a new one," said {hero}. They worked all day.
| {Hero} called all the neighbors, and together they made a new home for {friend}.
| "You do not have to go," said {hero}. "Stay here with me." And {friend} stayed.
? {Friend} gave {him} {gift} to say thank you.
* After that, they were never afraid of a storm again.
| A storm had brought them together, and nothing could part them.
| Since then, when the wind howls, they smile and tell stories.
""", natures=("kind", "gentle", "little", "quiet", "lonely"), heroes=("wild", "town"))

plot("contest", GENERAL, "wanted to win the {contest}", """
* Every (summer|spring|year), there was a {contest} {at}. {Hero} wanted to win it.
| One day, there was going to be a {contest} {at}. "I want to win {prize}," said {hero}.
* But {he} was not very good at it. The others laughed. "You will be the last," they said.
| {He} practiced every day, in the morning and in the evening.
| "You will never win," the others told {him}. But {hero} did not listen.
? {A_helper} saw it and said, "Do your best, and do not look at the others."
| {His} mother said, "It is not important to win. It is important to try."

* On the big day, everybody came. {Hero} stood next to {a_friend}, who was the best of all.
| At last, the day came. {Hero} was very nervous. Next to {him} stood {a_friend}.
* "Ready, set, go!" somebody shouted. {Hero} {did} as well as {he} could.
| The {contest} began. {Hero} {did} with all {his} heart, but {friend} was even better.
* Then {friend} cried, "Oh no!" {F_he} {mishap}.
| Suddenly {friend} stopped and began to cry. {F_he} {mishap}.
| In the middle of it all, {friend} sat down on the ground. {F_he} {mishap}.
* {Hero} could have won now. But {he} stopped and went back.
| The others did not stop. Only {hero} turned around.
| "Should I go on?" thought {hero}. {He} thought only for a moment. Then {he} went to help.
* "Come with me," {he} said. "We will do it together."
| {He} put an arm around {friend} and gave {f_him} some water.

* They were the last ones, but everybody clapped and cheered.
| {Hero} did not win. But when they came to the end, everybody stood up and clapped.
* "The prize is for the kindest heart," said the judge, and gave {hero} {prize}.
| "You helped a friend," said the judge. "That is worth more than winning." And {hero} got {prize}.
| {Friend} said, "You are the real winner," and gave {him} {gift}.
? {Hero} shared the prize with {friend}.
| {Hero} blushed with joy.
* From then on, {hero} and {friend} practiced together every day.
| That night, {hero} was tired and very, very happy.
| {Hero} knew now that a friend is better than any prize.
""", natures=("slow", "small", "proud", "quick", "little"), tables=("contest",))

plot("secret", GENERAL, "had a secret", """
* {Hero} had a secret.
| {He} had a secret that nobody knew.
* {premise}.
? "If they know, they will laugh at me," {he} thought.
| {He} had never told anybody about it.
* One {sky} day, {a_friend} asked, "Why are you so quiet today?"
| But {a_friend} was curious. "Are you hiding something from me?" {f_he} asked one day.
| One day, {a_friend} looked at {him} and asked, "What are you thinking about?"

* {Hero} turned red. "It is nothing," {he} said and went away quickly.
| "I cannot tell you," said {hero}. {Friend} looked sad.
* But a secret is heavy when you carry it alone. {Hero} could not sleep that night.
| That night, {hero} felt lonely. {He} wanted to tell somebody.
* On the next day, {he} went to {friend}. "Can you keep a secret?" {he} asked.
| In the morning, {he} said, "I want to show you something. Please do not laugh."
* "I promise," said {friend}. "I can keep a secret."
| {Friend} put a hand on {f_his} heart. "I will not tell anybody," {f_he} said.

* {reveal}.
| When it was quiet, they met again. {reveal}.
* {Friend} did not laugh. "It is wonderful," {f_he} said.
| "I am so glad that you showed me," whispered {friend}.
| "Thank you," said {friend} after a while. "Now I know you better."
* "Really?" asked {hero}. "I was afraid that you would laugh."
| {Hero} felt light as a feather.
? "Now I will tell you my secret," said {friend}. "I am afraid of (spiders|the dark|thunder)."
| From then on, they kept the secret together.
* A secret is much nicer when you share it with a friend.
| And they never told anybody, not even the moon.
| "Thank you for trusting me," said {friend}, and they were friends forever.
""", natures=("quiet", "shy", "little", "young", "dreamy"), tables=("secret",))

plot("mistake", GENERAL, None, """
* {Hero} had a good friend. It was {a_friend}, and they played together every day.
| {Hero} and {his} friend, {a_friend}, did everything together.
| {His} best friend was {a_friend}.
* One {sky} day, {hero} was not careful. {He} {mistake}.
| One day, they were playing {at}. {Hero} ran too fast and {mistake}.
| But one morning, {hero} {mistake}. It was an accident.
* The {broken}. Nobody had seen it.
| {He} looked down. The {broken}.

? "Maybe {friend} will not notice," {he} thought and went home quickly.
| {He} was so scared that {he} ran away and hid {hiding}.
* When {friend} came, {f_he} was very sad. "Who did this?" {f_he} asked.
| {Friend} saw it and began to cry. "Do you know what happened?" {f_he} asked.
* "I do not know," said {hero}. But that was a lie.
| {Hero} looked at the ground and said, "Maybe it was the (wind|rain|neighbor)."
* That night, {hero} could not sleep. {His} heart felt heavy like a stone.
| All evening, {hero} felt terrible. {He} did not want to eat or play.
? "A friend should tell the truth," said {a_helper}, who had seen everything.
| "I have to tell the truth," {he} thought.

* In the morning, {he} went to {friend}. "It was me," {he} said. "I am so sorry."
| Early the next day, {he} knocked on {friend}'s door. "I made a mistake," {he} said. "Please forgive me."
* {Friend} was silent for a moment. Then {f_he} said, "Thank you for telling me the truth."
| {Friend} was angry at first. But then {f_he} said, "Everybody makes mistakes. I forgive you."
* Together they {repair}.
| "Let me help you," said {hero}. So they {repair}.
* {Hero} felt much better. {He} never lied to {friend} again.
| Since that day, they trusted each other even more.
| {Hero} learned that saying sorry takes courage, but it makes the heart light.
""", natures=("careless", "wild", "quick", "young", "little"), tables=("mistake",))

plot("gift", GENERAL, None, """
* {A_friend} was {his} best friend, and it was almost {f_his} birthday.
| {His} best friend was {a_friend}, and soon it was {f_his} birthday.
* {Hero} wanted to give {f_him} something special, but {he} had no money.
| "What can I give {f_him}?" thought {hero}. {He} did not have anything nice.
* {He} {walked} {to} and looked around, but {he} found nothing.
| {He} went {to2} and asked {a_helper} for advice. "A gift does not need to be big," said {helper}. "It needs to come from the heart."
| {He} met {a_helper} {at}. "Give something that you made yourself," said {helper}.

* So {he} sat down and began to make {gift}.
| Then {he} had an idea. {He} would make {gift}!
* {He} worked for (two|three|five) days, and nobody was allowed to look.
| It was not easy. {He} had to start again three times.
* But on the way to the party, {he} fell into a puddle, and the present was ruined.
| At last it was ready. It was a little crooked, but {he} liked it.
| The others brought big, shiny boxes. {Hero} was ashamed of {his} small gift.

* "Happy birthday," {he} said quietly. "I only have something small."
| {Hero} told {friend} the whole story, and a tear ran down {his} cheek.
* {Friend} looked at it for a long time. Then {f_he} smiled. "You did this just for me?" {f_he} asked.
| "I love it," said {friend}. "Nobody has ever made anything for me before."
* "The best gift is that you are here," said {friend}.
| "It is the best present of all, because you thought of me," {f_he} said.
? Then they ate cake and {hobbied} together.
| They danced and sang until late in the evening.
* {Hero} was happy. {He} knew now that a gift from the heart is never small.
| And from that day on, it had a special place in {friend}'s home and in {f_his} heart.
| On the way home, the stars were bright, and {hero} {hobbied} a little.
""", natures=("poor", "kind", "little", "young", "thoughtful"), tables=("hobby",))

plot("learn", GENERAL, "wanted to learn how to {to_skill}", """
* {Hero} could not {to_skill}, but {he} wanted to learn it very much.
| More than anything, {he} wanted to learn how to {to_skill}.
| All the others could {to_skill}. Only {hero} could not.
* One {sky} day, {he} tried it for the first time. But {trouble}.
| {He} tried it {at}, where nobody could see {him}. But {trouble}.
? "I am too (silly|small|slow)," {he} said. "I will never learn it."
| Somebody laughed, and {hero} turned red.
* {He} was sad and went home. "{Skill} is not for me," {he} thought.
| {He} tried again, and again {trouble}. A tear rolled down {his} cheek.

* On the next day, {he} met {a_friend}. "Why do you look so sad?" asked {friend}.
| {A_friend} had seen everything. "Do not give up," said {friend}.
| Then {a_friend} sat down next to {him}. "Do you need help?" {f_he} asked.
* "I cannot {to_skill}," said {hero}. "Can you teach me?"
| "Everybody can {to_skill} but me," said {hero}. "Was it easy for you?"
* "When I was little, I could not {to_skill} either," said {friend}. "Nobody can do it on the first day."
| "I can show you how," said {friend}. "But you must not hurry."
| "Of course I will help you," said {friend}. "Watch me, and then do the same."

* Every day after (breakfast|school|lunch), they practiced {at2}.
| They met every morning {at2}. {Friend} was very patient.
* On the first day, {trouble}. On the second day, it was a little better.
| It was hard. But every day, it was a little easier.
? "Very good!" said {friend}. "Once more!"
| When {hero} was tired, {friend} told {him} a funny story.
* And after (a week|two weeks|many days), {hero} {skilled}!
| Then one morning, it happened. {Hero} {skilled}, and {he} could hardly believe it.
* "Look at me!" {he} shouted. "I can do it!"
| {Friend} clapped. "You did it!" {f_he} cried.
* {Hero} learned that nobody is born a master. You only need time and a good friend.
| From then on, {skill} was what {he} liked best.
| Later, {hero} taught others how to {to_skill}, and {he} was always patient.
""", natures=("young", "little", "small", "clumsy", "curious"), tables=("skill",))

plot("seed", GENERAL, "found a seed", """
* One {sky} day, {hero} found a tiny seed {at}.
| One morning, {hero} {walked} {to}. There {he} found a round, brown seed.
* "What will grow from it?" {he} wondered.
| "How small it is," {he} said. "I wonder what it will be."
* {He} made a hole in the ground, put the seed into it, and gave it some water.
| {He} planted it {at2} and sat down to wait.

* {He} waited all day, but nothing happened.
| On the first day nothing happened. On the second day nothing happened either.
* "Why does it not grow?" {he} asked {a_friend}.
| "It is a bad seed," {he} said to {a_friend}. "It does not want to grow."
* "You have to be patient," said {friend}. "A seed needs water, sun, and time."
| "Wait a little," said {friend}. "Good things are slow."
? "I do not like waiting," said {hero}. {Friend} laughed.
| {Hero} wanted to dig it up, but {friend} stopped {him}.
* So every morning, {hero} gave it water. {He} even (sang to it|told it stories|read to it).
| Day after day, they looked after it together.
? When the wind was cold, {he} put a blanket over the spot.
| Once a {crow} came to steal it, but they chased the {crow} away.

* Then, after many days, a little green leaf came out of the ground.
| One {sky} morning, there was a tiny green point. It was growing!
* It grew and grew. In summer, it was a tall {plant}.
| Week after week, it grew taller. At last it was a beautiful {plant}.
* "Look!" said {hero}. "It was worth the wait."
| {Hero} danced around it. "It is the most beautiful {plant} in the world," {he} said.
* {Hero} gave a part of it to {friend}, and everybody came to see it.
| In autumn, they found new seeds and gave one to each friend.
* And {hero} knew now that good things take time.
| Since then, {hero} has been as patient as a tree.
""", natures=("impatient", "curious", "young", "little", "small"), heroes=("wild", "town", "rover"))

plot("moon", GENERAL, "could not sleep", """
* One night, {hero} could not sleep. {He} turned to the left and to the right.
| {He} was tired, but every night {he} lay awake for a long time.
* The moon shone through the (leaves|clouds). It was round and (silver|golden|yellow|white).
| {He} looked out. The moon stood in the sky, big and bright.
* "Why are you awake, too?" {hero} asked the moon. But the moon did not answer.
| "I am not sleepy at all," said {hero}, and {he} got up.

* {He} {walked} {to}. Everything was quiet and silver.
| So {he} {walked} out into the night. The grass was wet and cool.
* There sat {a_friend}. "Can you not sleep either?" {f_he} asked.
| Then {he} heard a soft noise. It was {a_friend}. "Are you still awake, too?" asked {friend}. "Or did you have a bad dream?"
* "I cannot sleep," said {hero}. "My head is full of thoughts."
| "I have tried everything," said {hero}. "But sleep does not come to me."
* "Then let us look at the stars," said {friend}. They sat down side by side.
| "When I cannot sleep, I think of three good things," said {friend}. "Do you want to try?"
* "I think of the sun, of warm bread, and of you," said {hero}.
| {Hero} thought of {hobbying}, of {his} home, and of {his} friend.
| They counted the stars. One, two, three, four, five.
? A star fell from the sky. "Make a wish!" whispered {friend}.
| Somewhere, an owl called. It did not sound scary at all.

* Slowly, {his} eyes grew heavy. {He} yawned.
| Soon {friend} yawned, and then {hero} yawned too.
* "Good night," said {friend}. "Good night," said {hero}. "Sleep well."
| They said good night, and {hero} went back to bed.
* {He} fell asleep at once and dreamed of {hobbying}.
| A moment later, {he} was asleep. The moon smiled and went on its way.
* And if you cannot sleep tonight, think of three good things, too.
| In the morning, {he} woke up happy and rested.
""", natures=("little", "small", "young", "restless", "tired"), tables=("hobby",))

plot("noise", GENERAL, "was very curious", """
* One {sky} (evening|morning|night), {hero} heard a strange noise {at}.
| It began with a strange noise. It came from far away, and it did not stop.
* "{Noise}!" it went. "{Noise}, {noise}!"
| It sounded like this: "{Noise}! {Noise}!"
* "What could that be?" {he} asked {himself}. "Is it a (monster|ghost|giant)?"
| {Hero} listened. {He} was a little scared, but {he} was also curious.

* {He} went to {a_friend}. "Do you hear that?" {he} asked. {Friend} nodded.
| {A_friend} had heard it, too. "Maybe it is a monster," whispered {friend}.
* "Let us find out," said {hero}. They took a lantern and set off.
| "Together we are brave," said {friend}. So they went to look.
* They {crept} {to}, step by step.
| They {crept} {to2}. The noise grew louder and louder.
? A twig cracked. Both of them jumped.
| "My knees are shaking," said {friend}. "Mine, too," said {hero}.
* "{Noise}!" It was very near now. {Hero} held up the lantern.
| Then they saw something move {hiding}.

* And what did they see? {source}.
| They had to laugh. It was not a monster. {source}.
* "We were afraid of that?" said {friend} and laughed.
| "So that was the monster!" said {hero}.
? "Let us help," said {friend}, and they did.
| They laughed so much that they had to sit down.
* On the way home, they were not afraid of anything.
| They went home and told everybody what they had found.
* {Hero} learned that it is better to look than to be afraid.
| Since then, when {he} hears a strange noise, {he} takes a lantern and a friend.
""", natures=("curious", "clever", "brave", "little", "young"), tables=("noise",))
